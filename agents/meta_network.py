"""Hyper-parameters as a function of recent rewards: a small network, whose weights are learned.

Flennerhag et al. (arXiv 2109.04504), section 5.1. The features are the rewards as they
are, or those of Luketina et al., "Meta-Gradients in Non-Stationary Environments" (CoLLAs 2022):
normalised over the run's lifetime and squashed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents.hyperparameters import Hyperparameters, Learned
from agents.meta_parameters import Tuned, initial_logit, single_numbers
from agents.networks import DenseNetwork, make_dense_network
from agents.settings import Settings

# Of rewards whose deviation is not known yet: about that of the grid world's mean rewards.
_LEAST_DEVIATION = 0.01
# Rewards after which statistics forget: single precision could not count many more.
_LONGEST_MEMORY = 1e6


class RewardContext(NamedTuple):
    """Recent rewards, newest last, and the statistics of all since the start."""

    recent: jax.Array  # [H]
    seen: jax.Array  # how many there were, also before the recent ones
    mean: jax.Array  # of all of them
    variance: jax.Array  # of all of them


def init_context(length: int) -> RewardContext:
    """Before the first reward; where nothing looks at it, of one: orbax saves no empty arrays.

    Args:
        length: H.
    """
    zero = jnp.zeros((), jnp.result_type(float))
    return RewardContext(jnp.zeros(max(1, length), zero.dtype), zero, zero, zero)


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


def contextual(
    network: DenseNetwork,
    fixed: Mapping[str, float],
    learned: Mapping[str, Learned],
    normalised: bool,
) -> Tuned:
    """Hyper-parameters that a network makes of the context; its weights are the meta-parameters.

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

    def values(weights: Any, context: RewardContext) -> Hyperparameters:
        output = network.apply(weights, features(context, normalised))
        tuned = upper * jax.nn.sigmoid(output + offset)
        return {**fixed, **{name: tuned[i] for i, name in enumerate(learned)}}

    # A bias is added to each of the network's outputs, so its gradient is that of them all.
    return Tuned(
        tuple(learned),
        network.init,
        values,
        lambda weights: {name: weights["output"]["b"][i] for i, name in enumerate(learned)},
    )


def tuned_by_rewards(settings: Settings) -> Tuned:
    """Hyper-parameters of an agent that plays its own experience: a network's, or numbers."""
    meta, fixed, learned = settings.meta, settings.fixed, settings.learned
    if not learned or not meta.context_length:
        return single_numbers(fixed, learned, heads=1)
    network = make_dense_network(meta.context_length, meta.hidden, len(learned), zero_output=True)
    return contextual(network, fixed, learned, meta.context_normalised)
