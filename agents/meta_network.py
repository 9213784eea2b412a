"""Hyper-parameters as a function of recent rewards: a small network, whose weights are learned.

Flennerhag et al. (arXiv 2109.04504), section 5.1. The features are the rewards as they
are, or those of Luketina et al., "Meta-Gradients in Non-Stationary Environments" (CoLLAs 2022):
normalised over the run's lifetime and squashed.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents.hyperparameters import Hyperparameters
from agents.meta_parameters import Learned, MetaParams, initial_logit, make_hyperparameters
from agents.networks import DenseNetwork

# Of rewards whose deviation is not known yet: about that of the grid world's mean rewards.
_LEAST_DEVIATION = 0.01
# Rewards after which statistics forget: single precision could not count many more.
_LONGEST_MEMORY = 1e6

# From (weights, context) to hyper-parameters.
Contextual = Callable[[tuple[Any, "RewardContext"]], Hyperparameters]


class RewardContext(NamedTuple):
    """Recent rewards, newest last, and the statistics of all since the start."""

    recent: jax.Array  # [H]
    seen: jax.Array  # how many there were, also before the recent ones
    mean: jax.Array  # of all of them
    variance: jax.Array  # of all of them


def init_context(length: int) -> RewardContext:
    """Before the first reward.

    Args:
        length: H.
    """
    zero = jnp.zeros((), jnp.result_type(float))
    return RewardContext(jnp.zeros(length, zero.dtype), zero, zero, zero)


def add_reward(context: RewardContext, reward: jax.Array) -> RewardContext:
    """The context after one more (mean) reward, a scalar; statistics after Welford (1962)."""
    seen = jnp.minimum(context.seen + 1.0, _LONGEST_MEMORY)
    distance = reward - context.mean
    mean = context.mean + distance / seen
    variance = context.variance + (distance * (reward - mean) - context.variance) / seen
    return RewardContext(jnp.concatenate([context.recent[1:], reward[None]]), seen, mean, variance)


def features(context: RewardContext, normalised: bool) -> jax.Array:
    """What the network sees, [H]; places of rewards that there have not been are 0.

    Args:
        context: of the agent.
        normalised: by mean and deviation since the start, and squashed by tanh; else as they are.
    """
    if not normalised:
        return context.recent
    length = context.recent.shape[0]
    there = jnp.arange(length) >= length - context.seen
    deviation = jnp.maximum(jnp.sqrt(context.variance), _LEAST_DEVIATION)
    scaled = (context.recent - context.mean) / deviation
    return jnp.where(there, jnp.tanh(scaled), 0.0)


def make_contextual(
    network: DenseNetwork,
    fixed: Mapping[str, float],
    learned: Mapping[str, Learned],
    normalised: bool,
) -> Contextual:
    """The function from (weights, context) to all hyper-parameters, learned and fixed ones.

    Each learned value starts where it is told to, whatever the context, because the network's
    output layer starts at zero: what Luketina et al. reach by fitting the network beforehand.

    Args:
        network: from features [H] to a number for each learned hyper-parameter, all 0 at first.
        fixed: value of each hyper-parameter that is not learned.
        learned: by name; value = upper * sigmoid(output + the logit of the start).
        normalised: see `features`.
    """
    offset = jnp.asarray([initial_logit(start / upper) for start, upper in learned.values()])
    upper = jnp.asarray([upper for _, upper in learned.values()])

    def hyperparameters(inputs: tuple[Any, RewardContext]) -> Hyperparameters:
        weights, context = inputs
        output = network.apply(weights, features(context, normalised))
        values = upper * jax.nn.sigmoid(output + offset)
        return {**fixed, **{name: values[i] for i, name in enumerate(learned)}}

    return hyperparameters


def without_context(
    fixed: Mapping[str, float], learned: Mapping[str, Learned]
) -> Callable[[tuple[MetaParams, RewardContext]], Hyperparameters]:
    """The same where each learned hyper-parameter is one number, whatever the rewards.

    Args:
        fixed: as for `make_contextual`.
        learned: by name; value = upper * sigmoid(meta-parameter).
    """
    values = make_hyperparameters(fixed, learned, heads=1)
    return lambda inputs: values(inputs[0])
