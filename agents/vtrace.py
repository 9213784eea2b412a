"""Leaky V-trace targets and advantages."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

# What a leak lets through is bounded: a trace is a product over the unroll, and with weights of
# 1,000 even a leak of 0.99 made targets of 1e21 in 20 steps. With these bounds a trace of 20 steps
# weighs at most 1.22 at that leak. Policies a few updates apart have weights below both.
_MAX_RHO = 10.0
_MAX_C = 2.0


class Targets(NamedTuple):
    """What the loss of an actor-critic regards as data."""

    value: jax.Array  # [T, B], V-trace target v_t
    advantage: jax.Array  # [T, B], rho_t (r_t + gamma_t v_{t+1} - V(x_t))


def vtrace(
    value: jax.Array,
    reward: jax.Array,
    discount: jax.Array,
    log_ratio: jax.Array,
    valid: jax.Array,
    *,
    lambda_: jax.Array | float = 1.0,
    leak_rho: jax.Array | float = 1.0,
    leak_c: jax.Array | float = 1.0,
) -> Targets:
    """V-trace targets and advantages with a leak in both importance weights.

    Espeholt et al. 2018 (arXiv 1802.01561), eq. 1 with rho_bar = c_bar = 1; the leak is Zahavy et
    al. 2020 (arXiv 2002.12928): rho = leak min(1, IS) + (1 - leak) IS, and likewise c. One
    deviation: the second IS is at most 10 in rho and 2 in c, so that no trace explodes.
    T steps, B environments. Nothing is stopped here: meta-gradients need the derivatives with
    respect to discount, lambda and leaks; whoever wants a semi-gradient passes the targets to the
    loss as data.

    An invalid step (an auto-reset) neither adds an error nor passes one on, so the target of a
    step cut by a time limit bootstraps from the value of the observation it ended in, and nothing
    of the next episode reaches it.

    Args:
        value: [T+1, B]; the last row bootstraps.
        reward: [T, B].
        discount: [T, B], the agent's discount times the trajectory's.
        log_ratio: [T, B], log pi(a|x) - log mu(a|x).
        valid: [T, B] bool.
        lambda_: scalar in [0, 1].
        leak_rho: scalar in [0, 1].
        leak_c: scalar in [0, 1].
    """
    ratio = jnp.exp(jnp.minimum(log_ratio, math.log(_MAX_RHO)))
    clipped = jnp.minimum(ratio, 1.0)
    rho = leak_rho * clipped + (1.0 - leak_rho) * ratio
    c = lambda_ * (leak_c * clipped + (1.0 - leak_c) * jnp.minimum(ratio, _MAX_C))
    delta = rho * (reward + discount * value[1:] - value[:-1])

    def backwards(error_t, step):
        delta_tm1, discount_tm1, c_tm1, valid_tm1 = step
        error_tm1 = jnp.where(valid_tm1, delta_tm1 + discount_tm1 * c_tm1 * error_t, 0.0)
        return error_tm1, error_tm1

    _, errors = jax.lax.scan(
        backwards, jnp.zeros_like(value[-1]), (delta, discount, c, valid), reverse=True
    )
    target = value[:-1] + errors
    target_next = jnp.concatenate([target[1:], value[-1:]])
    advantage = rho * (reward + discount * target_next - value[:-1])
    return Targets(target, jnp.where(valid, advantage, 0.0))
