"""Losses of additional heads on the same torso: auxiliary actor-critics and the outer value.

Auxiliary heads (Zahavy et al. 2020, arXiv 2002.12928) learn from the same data, each under its own
hyper-parameters, and never act. The outer value (Bonnet et al. 2022) is learned under the fixed
outer hyper-parameters, so that the outer loss need not trust a critic of the learned discount.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents import actor_critic, outer_loss
from agents.hyperparameters import Hyperparameters
from agents.networks import NetworkOutput
from agents.objectives import Objective
from agents.trajectory import Trajectory
from agents.vtrace import Targets


class HeadTargets(NamedTuple):
    """Targets of every head."""

    heads: Any  # of the objective, [heads, T, B], the acting head first
    outer: Targets | None  # [T, B]


def _stacked(outputs: NetworkOutput) -> NetworkOutput:
    """Policies and values of all heads, [heads, T+1, B, ...]."""
    logits, value = outputs.logits[None], outputs.value[None]
    if outputs.auxiliary_logits is not None and outputs.auxiliary_value is not None:
        logits = jnp.concatenate([logits, jnp.moveaxis(outputs.auxiliary_logits, -2, 0)])
        value = jnp.concatenate([value, jnp.moveaxis(outputs.auxiliary_value, -1, 0)])
    return NetworkOutput(logits, value)


def _of_heads(hyper: Hyperparameters, heads: int) -> Hyperparameters:
    """Every hyper-parameter of each head, [heads]."""
    return {name: jnp.broadcast_to(jnp.asarray(value), (heads,)) for name, value in hyper.items()}


def every_head(objective: Objective, outer: Hyperparameters):
    """`make_targets` and `loss` of an objective for all heads at once.

    The outer value is always learned from V-trace targets, as `actor_critic` learns a value.

    Args:
        objective: of each head.
        outer: hyper-parameters under which the outer value is learned.
    """

    def make_targets(
        outputs: NetworkOutput, trajectory: Trajectory, hyper: Hyperparameters
    ) -> HeadTargets:
        heads = _stacked(outputs)
        each = jax.vmap(objective.make_targets, in_axes=(0, None, 0))
        targets = each(heads, trajectory, _of_heads(hyper, heads.value.shape[0]))
        if outputs.outer_value is None:
            return HeadTargets(targets, None)
        seen = outer_loss.view(outputs)
        return HeadTargets(targets, actor_critic.make_targets(seen, trajectory, outer))

    def loss(
        outputs: NetworkOutput,
        targets: HeadTargets,
        trajectory: Trajectory,
        hyper: Hyperparameters,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        heads = _stacked(outputs)
        each = jax.vmap(objective.loss, in_axes=(0, 0, None, 0))
        totals, metrics = each(
            heads, targets.heads, trajectory, _of_heads(hyper, heads.value.shape[0])
        )
        acting = {name: value[0] for name, value in metrics.items()}
        if heads.value.shape[0] > 1:
            acting["loss/auxiliary"] = jnp.sum(metrics["loss/total"][1:])
        total = jnp.sum(totals)
        if targets.outer is not None:
            value_only = {**outer, "policy_cost": 0.0, "entropy_cost": 0.0}
            outer_total, outer_metrics = actor_critic.loss(
                outer_loss.view(outputs), targets.outer, trajectory, value_only
            )
            total = total + outer_total
            acting["loss/outer_value"] = outer_metrics["loss/value"]
        steps = jnp.maximum(jnp.sum(trajectory.valid), 1)
        return total, {**acting, "loss/total": total / steps}

    return make_targets, loss
