"""An actor-critic that learns from batches which others have played: IMPALA's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from agents import actor_critic, outer_loss
from agents.actor_critic import Loss, within_trust_region
from agents.heads import every_head
from agents.matching import Matching, Weights, compare
from agents.meta_gradient import Distance, LastUpdate, row
from agents.meta_parameters import replayed_numbers, single_numbers
from agents.networks import Network, NetworkOutput
from agents.objectives import OBJECTIVES
from agents.optimizers import TargetStep, make_optimizer
from agents.parts import Parts
from agents.settings import Settings
from agents.trajectory import Trajectory
from agents.update import InnerState, MakeTargets, Metrics, init_inner_state, make_rule


def off_policy_parts(
    settings: Settings, network: Network, view: Callable[[Trajectory], Trajectory]
) -> Parts:
    """The parts of an agent whose inputs are batches of trajectories.

    Args:
        settings: of the agent.
        network: policy, value and further heads.
        view: what the losses see of a trajectory as it was sent.
    """
    optimizer = make_optimizer(settings.optimizer)
    select = _select(settings.max_kl)
    rule = make_rule(network, *_objective(settings), optimizer, select)
    heads = 1 + settings.heads.auxiliary
    if settings.replayed is None:
        tuned = single_numbers(settings.fixed, settings.learned, heads)
    else:
        names = [*settings.replayed(jnp.zeros((), jnp.int32))]
        tuned = replayed_numbers(settings.fixed, names, heads)

    def init(key: jax.Array) -> tuple[InnerState, Any]:
        return init_inner_state(network.init(key), optimizer), tuned.init(key)

    def update(
        state: InnerState, batch: Trajectory, meta_params: Any
    ) -> tuple[InnerState, Metrics]:
        return rule(state, view(batch), tuned.values(meta_params, ()))

    def outer_update(step: TargetStep) -> LastUpdate:
        def last_update(initial: InnerState, state: InnerState, batch: Trajectory) -> InnerState:
            batch, kl_cost = view(batch), settings.kl_cost
            before = network.apply(initial.params, batch.observation).logits if kl_cost else None
            objective = OBJECTIVES[settings.objective]
            make_targets, loss = outer_loss.make_plain(objective, kl_cost, before)
            loss = actor_critic.reduced(loss, settings.loss)
            plain = make_rule(network, make_targets, loss, step.optimizer, select)
            return plain(InnerState(state.params, step.state(state)), batch, settings.outer)[0]

        return last_update

    def distance(matching: Matching, weights: Weights) -> Distance:
        def between(target: InnerState, learner: InnerState, inputs: Trajectory) -> jax.Array:
            newest = view(row(inputs, -1))
            return compare(network, matching, weights, target.params, learner.params, newest)

        return between

    return Parts(init, update, outer_update, distance, tuned)


def _objective(settings: Settings) -> tuple[MakeTargets, Loss]:
    """`make_targets` and `loss` of the inner update."""
    objective = OBJECTIVES[settings.objective]
    make_targets, loss = objective.make_targets, objective.loss
    if settings.heads.auxiliary or settings.heads.outer_value:
        make_targets, loss = every_head(objective, settings.outer)
    return make_targets, actor_critic.reduced(loss, settings.loss)


def _select(max_kl: float) -> Callable[[NetworkOutput, Trajectory], Trajectory] | None:
    if not max_kl:
        return None
    return lambda outputs, batch: within_trust_region(outputs, batch, max_kl)
