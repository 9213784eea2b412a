"""The IMPALA actor-critic: targets outside the gradient, loss inside.

The seam between the two functions is what makes meta-gradients right: `loss` is differentiated
with respect to the network's outputs and takes its targets as data, so no `stop_gradient` is
needed, and none may appear here (docs/architecture.md).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from agents.hyperparameters import Hyperparameters
from agents.networks import NetworkOutput
from agents.policies import kl_divergence
from agents.trajectory import Trajectory
from agents.vtrace import Targets, vtrace

# loss(outputs, targets, trajectory, hyper) -> (scalar, metrics)
Loss = Callable[
    [NetworkOutput, Any, Trajectory, Hyperparameters], tuple[jax.Array, dict[str, jax.Array]]
]


def _log_probability(logits: jax.Array, action: jax.Array) -> jax.Array:
    """Log pi(a|x) of the action taken: [T, B, A] and [T, B] to [T, B]."""
    log_policy = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(log_policy, action[..., None], axis=-1)[..., 0]


def within_trust_region(
    outputs: NetworkOutput, trajectory: Trajectory, max_kl: float
) -> Trajectory:
    """Marks steps as invalid where the current policy is too far from the one that acted.

    Schmitt et al. 2020 (LASER, arXiv 1909.11583), section 5: replayed steps of an almost unrelated
    policy neither teach nor pass a trace on.

    Args:
        outputs: logits [T+1, B, A] of the current policy.
        trajectory: T steps in B environments.
        max_kl: largest KL(current || behaviour) of a step that is learned from.
    """
    kl = kl_divergence(outputs.logits[:-1], trajectory.behaviour_logits)
    return trajectory._replace(valid=trajectory.valid & (kl <= max_kl))


def make_targets(outputs: NetworkOutput, trajectory: Trajectory, hyper: Hyperparameters) -> Targets:
    """V-trace targets of one unroll under the current policy and values.

    Args:
        outputs: logits [T+1, B, A] and value [T+1, B] at the trajectory's observations.
        trajectory: T steps in B environments, rewards as the learner wants them.
        hyper: discount, lambda and leaks are used.
    """
    log_ratio = _log_probability(outputs.logits[:-1], trajectory.action) - _log_probability(
        trajectory.behaviour_logits, trajectory.action
    )
    return vtrace(
        outputs.value,
        trajectory.reward,
        hyper["discount"] * trajectory.discount,
        log_ratio,
        trajectory.valid,
        lambda_=hyper["vtrace_lambda"],
        leak_rho=hyper["vtrace_leak"] * hyper["vtrace_leak_rho"],
        leak_c=hyper["vtrace_leak"] * hyper["vtrace_leak_c"],
    )


def make_one_step_targets(
    outputs: NetworkOutput, trajectory: Trajectory, hyper: Hyperparameters
) -> Targets:
    """Temporal-difference targets r + discount * V(next) of a policy that learns from its own play.

    The grid world's agent (Flennerhag et al., section 5.1). There are no importance weights: at a
    ratio of exactly 1 they change no value, but min(1, ratio) has a kink there, and through it the
    meta-gradient would get a part that the algorithm does not have.

    Args:
        outputs: value [T+1, B] is used.
        trajectory: T steps in B environments.
        hyper: discount is used.
    """
    discount = hyper["discount"] * trajectory.discount
    target = trajectory.reward + discount * outputs.value[1:]
    return Targets(target, jnp.where(trajectory.valid, target - outputs.value[:-1], 0.0))


def reduced(loss: Loss, how: Literal["sum", "mean"]) -> Loss:
    """A summed loss as it is, or as a mean over the valid steps."""

    def mean(
        outputs: NetworkOutput, targets: Any, trajectory: Trajectory, hyper: Hyperparameters
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        total, metrics = loss(outputs, targets, trajectory, hyper)
        return total / jnp.maximum(jnp.sum(trajectory.valid), 1), metrics

    return mean if how == "mean" else loss


def loss(
    outputs: NetworkOutput, targets: Targets, trajectory: Trajectory, hyper: Hyperparameters
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Actor-critic loss, summed over the valid steps of time and batch.

    Espeholt et al. 2018, section 4.2; sums as in its published code (learning rate 6e-4 and
    gradient norm 40 only make sense with them). The value loss is half the squared error.

    Args:
        outputs: logits [T+1, B, A] and value [T+1, B].
        targets: value and advantage, [T, B].
        trajectory: T steps in B environments.
        hyper: the three costs are used.

    Returns:
        The loss, and its parts per valid step under the names of metrics.jsonl.
    """
    mask = trajectory.valid.astype(outputs.value.dtype)
    logits = outputs.logits[:-1]
    log_policy = jax.nn.log_softmax(logits)
    policy = -jnp.sum(targets.advantage * _log_probability(logits, trajectory.action) * mask)
    value = 0.5 * jnp.sum(jnp.square(targets.value - outputs.value[:-1]) * mask)
    entropy = -jnp.sum(jnp.sum(jnp.exp(log_policy) * log_policy, axis=-1) * mask)
    total = (
        hyper["policy_cost"] * policy
        + hyper["value_cost"] * value
        - hyper["entropy_cost"] * entropy
    )
    steps = jnp.maximum(jnp.sum(mask), 1.0)
    return total, {
        "loss/total": total / steps,
        "loss/policy": policy / steps,
        "loss/value": value / steps,
        "loss/entropy": entropy / steps,
        "loss/explained_variance": explained_variance(targets.value, outputs.value[:-1], mask),
    }


def explained_variance(targets: jax.Array, values: jax.Array, mask: jax.Array) -> jax.Array:
    """Share of the targets' variance that the values explain: 1 is all, 0 is what a constant does.

    Args:
        targets: [T, B].
        values: [T, B].
        mask: [T, B], 1 where a step counts. Where the targets do not vary the result is 0.
    """
    steps = jnp.maximum(jnp.sum(mask), 1.0)

    def variance(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(x - jnp.sum(x * mask) / steps) * mask) / steps

    spread = variance(targets)
    share = 1.0 - variance(targets - values) / jnp.where(spread > 0.0, spread, 1.0)
    return jnp.where(spread > 0.0, share, 0.0)
