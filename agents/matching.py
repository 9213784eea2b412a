"""Matching functions: how far the learner is from its target (mu of Flennerhag et al., section 3).

Adding one is writing one function under `@matching` (docs/extending.md); `meta.matching` takes its
name. The target is data; only what comes from the learner is differentiated. What a function does
not use is not computed.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from agents.networks import Network, NetworkOutput, Params
from agents.policies import kl_divergence
from agents.trajectory import Trajectory


class Point(NamedTuple):
    """Parameters, and what the network with them says about a trajectory's observations."""

    params: Params
    outputs: NetworkOutput  # logits [T+1, B, A], value [T+1, B]


class Weights(NamedTuple):
    """Of the terms of a matching function."""

    l2: float = 0.5  # with which a plain gradient step as target gives a plain meta-gradient
    policy: float = 1.0
    value: float = 0.25  # published for the sum of policy and value


Matching = Callable[[Point, Point, Trajectory, Weights], jax.Array]

MATCHING: dict[str, Matching] = {}


def matching(function: Matching) -> Matching:
    """Makes a function known by its name."""
    MATCHING[function.__name__] = function
    return function


def compare(
    network: Network,
    matching: Matching,
    weights: Weights,
    target: Params,
    learner: Params,
    trajectory: Trajectory,
) -> jax.Array:
    """A matching function between two sets of parameters at the states of a trajectory."""
    points = [Point(p, network.apply(p, trajectory.observation)) for p in (target, learner)]
    return matching(points[0], points[1], trajectory, weights)


def _mean(x: jax.Array, trajectory: Trajectory) -> jax.Array:
    """Mean over the valid steps: [T, B] to a scalar."""
    mask = trajectory.valid.astype(x.dtype)
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1.0)


@matching
def l2(target: Point, learner: Point, trajectory: Trajectory, weights: Weights) -> jax.Array:
    """Squared distance of all parameters; `trajectory` does not matter."""
    del trajectory
    return weights.l2 * squared_distance(target.params, learner.params)


def squared_distance(a: Params, b: Params) -> jax.Array:
    """Sum of the squared differences of all parameters."""
    squares = jax.tree.map(lambda x, y: jnp.sum(jnp.square(x - y)), a, b)
    return jnp.asarray(sum(jax.tree.leaves(squares)))


@matching
def kl(target: Point, learner: Point, trajectory: Trajectory, weights: Weights) -> jax.Array:
    """KL(target || learner), mean over states: the published direction."""
    step = kl_divergence(target.outputs.logits[:-1], learner.outputs.logits[:-1])
    return weights.policy * _mean(step, trajectory)


@matching
def reverse_kl(
    target: Point, learner: Point, trajectory: Trajectory, weights: Weights
) -> jax.Array:
    """KL(learner || target), mean over states."""
    step = kl_divergence(learner.outputs.logits[:-1], target.outputs.logits[:-1])
    return weights.policy * _mean(step, trajectory)


@matching
def value(target: Point, learner: Point, trajectory: Trajectory, weights: Weights) -> jax.Array:
    """Squared difference of value predictions, mean over states."""
    step = jnp.square(target.outputs.value[:-1] - learner.outputs.value[:-1])
    return weights.value * _mean(step, trajectory)


@matching
def kl_value(target: Point, learner: Point, trajectory: Trajectory, weights: Weights) -> jax.Array:
    """Sum of `kl` and `value`: the best on Atari in the paper."""
    return kl(target, learner, trajectory, weights) + value(target, learner, trajectory, weights)
