"""The plain objective of the meta-learner: the inner one at values that never change.

Zahavy et al. 2020 (arXiv 2002.12928), section 3: the V-trace actor-critic loss of the acting head
and a divergence from the policy before the inner updates.
"""

from typing import Any

import jax
import jax.numpy as jnp

from agents.actor_critic import Loss
from agents.hyperparameters import Hyperparameters
from agents.networks import NetworkOutput
from agents.objectives import Objective
from agents.policies import kl_divergence
from agents.trajectory import Trajectory
from agents.update import MakeTargets


def view(outputs: NetworkOutput) -> NetworkOutput:
    """What the outer loss sees: the acting policy, and the outer value where there is one."""
    value = outputs.value if outputs.outer_value is None else outputs.outer_value
    return NetworkOutput(outputs.logits, value)


def make_plain(
    objective: Objective, kl_cost: float, logits_before: jax.Array | None
) -> tuple[MakeTargets, Loss]:
    """`make_targets` and `loss` of an objective, of what the outer loss sees.

    To the loss kl_cost * KL(new policy || policy before) is added, summed over steps.

    Args:
        objective: of the inner update.
        kl_cost: weight; with 0 the last argument is not needed.
        logits_before: [T+1, B, A], of the policy before the inner updates.
    """

    def make_targets(outputs: NetworkOutput, trajectory: Trajectory, hyper: Hyperparameters) -> Any:
        return objective.make_targets(view(outputs), trajectory, hyper)

    def loss(
        outputs: NetworkOutput, targets: Any, trajectory: Trajectory, hyper: Hyperparameters
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        total, metrics = objective.loss(view(outputs), targets, trajectory, hyper)
        if logits_before is not None:
            kl = kl_divergence(outputs.logits[:-1], logits_before[:-1])
            total = total + kl_cost * jnp.sum(kl * trajectory.valid)
        return total, metrics

    return make_targets, loss
