"""One update of the learner on one batch: phi of Flennerhag et al. (arXiv 2109.04504)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from agents.actor_critic import Loss
from agents.hyperparameters import Hyperparameters
from agents.networks import Network, NetworkOutput, Params
from agents.optimizers import gradient_norm
from agents.trajectory import Trajectory

Metrics = dict[str, jax.Array]
MakeTargets = Callable[[NetworkOutput, Trajectory, Hyperparameters], Any]


class InnerState(NamedTuple):
    """All that one update changes."""

    params: Params
    opt_state: Any


# rule(state, trajectory, hyper) -> (state, metrics): phi at some values of the hyper-parameters
Rule = Callable[[InnerState, Trajectory, Hyperparameters], tuple[InnerState, Metrics]]


def init_inner_state(params: Params, optimizer: optax.GradientTransformation) -> InnerState:
    """The state before the first update."""
    return InnerState(params, optimizer.init(params))


def make_rule(
    network: Network,
    make_targets: MakeTargets,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    select: Callable[[NetworkOutput, Trajectory], Trajectory] | None = None,
) -> Rule:
    """Builds `rule(state, trajectory, hyper) -> (state, metrics)`.

    The semi-gradient is written as a pull-back: the network runs once, the loss is differentiated
    with respect to the network's outputs with the targets as data, and the result is pulled back
    to the parameters. Nothing is stopped, so the whole update can be differentiated with respect
    to the hyper-parameters and through any number of updates.

    Args:
        network: policy and value.
        make_targets: what the loss regards as data.
        loss: of outputs, targets, trajectory and hyper-parameters.
        optimizer: from agents/optimizers.py, which can be differentiated through.
        select: which steps of a trajectory count, given the network's outputs; all of them if None.
    """

    def rule(
        state: InnerState, trajectory: Trajectory, hyper: Hyperparameters
    ) -> tuple[InnerState, Metrics]:
        outputs, pull_back = jax.vjp(
            lambda params: network.apply(params, trajectory.observation), state.params
        )
        if select is not None:
            trajectory = select(outputs, trajectory)
        targets = make_targets(outputs, trajectory, hyper)
        cotangent, metrics = jax.grad(loss, has_aux=True)(outputs, targets, trajectory, hyper)
        (gradients,) = pull_back(cotangent)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        scale = hyper["learning_rate_scale"]
        params = jax.tree.map(lambda p, u: p + scale * u, state.params, updates)
        metrics = {**metrics, "loss/gradient_norm": gradient_norm(gradients)}
        return InnerState(params, opt_state), metrics

    return rule
