"""Peng's Q(lambda), step by step, and its epsilon-greedy policy.

Peng and Williams 1994, "Incremental multi-step Q-learning", with a network in place of the table;
the grid world's second agent (Flennerhag et al., arXiv 2109.04504, section 5.1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from agents.hyperparameters import Hyperparameters
from agents.networks import DenseNetwork, Params


class Transition(NamedTuple):
    """One step of one environment."""

    observation: jax.Array  # [F]
    action: jax.Array  # int32
    reward: jax.Array
    discount: jax.Array  # the environment's: 0 where the return ends with this reward, else 1
    following: jax.Array  # [F], the observation after the action


def epsilon_greedy(q: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Log-probabilities of the policy that is greedy but for a share epsilon of random actions.

    An epsilon of 0 gives the greedy policy; probabilities of 0 have a large negative logarithm
    instead of an infinite one, so that 0 log 0 is 0.

    Args:
        q: [..., A].
        epsilon: scalar in [0, 1]; the result can be differentiated with respect to it.
    """
    actions = q.shape[-1]
    greedy = jax.nn.one_hot(jnp.argmax(q, axis=-1), actions, dtype=q.dtype)
    probability = (1.0 - epsilon) * greedy + epsilon / actions
    return jnp.log(jnp.maximum(probability, jnp.finfo(q.dtype).tiny))


def choose(q: jax.Array, epsilon: jax.Array, uniform: jax.Array) -> jax.Array:
    """An action of the epsilon-greedy policy, int32.

    Args:
        q: [A].
        epsilon: scalar in [0, 1].
        uniform: [2] in [0, 1): whether to explore, and which action then.
    """
    actions = q.shape[-1]
    explored = jnp.minimum(jnp.floor(uniform[1] * actions), actions - 1).astype(jnp.int32)
    return jnp.where(uniform[0] < epsilon, explored, jnp.argmax(q).astype(jnp.int32))


def direction(
    network: DenseNetwork,
    params: Params,
    trace: Params,
    previous_discount: jax.Array,
    transition: Transition,
    hyper: Hyperparameters,
) -> tuple[Params, Params, jax.Array]:
    """Where one step of Q(lambda) would move the parameters, and the trace after it.

    The action taken moves by r + discount * max q(s') - q(s, a); those taken before it, by the
    difference of greedy values, r + discount * max q(s') - max q(s), in the measure of their trace.

    Args:
        network: from observations [F] to q [A].
        params: its parameters.
        trace: eligibility, sum of (discount * lambda)^k times the gradient of q k + 1 steps ago.
        previous_discount: the environment's, of the step before: 0 forgets the trace.
        transition: the step.
        hyper: discount and vtrace_lambda are used.

    Returns:
        Direction (to be added), next trace, and the temporal-difference error of the action taken.
    """
    q, pull_back = jax.vjp(lambda p: network.apply(p, transition.observation), params)
    discount = hyper["discount"] * transition.discount
    target = transition.reward + discount * jnp.max(network.apply(params, transition.following))
    error, greedy_error = target - q[transition.action], target - jnp.max(q)
    (gradient,) = pull_back(jax.nn.one_hot(transition.action, q.shape[-1], dtype=q.dtype))
    decay = hyper["discount"] * hyper["vtrace_lambda"] * previous_discount
    trace = jax.tree.map(lambda z, g: decay * z + g, trace, gradient)
    # In terms of the new trace, so that the old one need not be copied: a tenth of a step's time.
    not_greedy = error - greedy_error
    move = jax.tree.map(lambda g, z: greedy_error * z + not_greedy * g, gradient, trace)
    return move, trace, error
