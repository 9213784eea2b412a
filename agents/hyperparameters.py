"""The hyper-parameters that enter the loss, as arrays, so that they may also be learned."""

from typing import NamedTuple

import jax


class Hyperparameters(NamedTuple):
    """Scalars in their allowed range. Names are those of the `agent` group of the configuration."""

    discount: jax.Array | float  # in [0, 1]
    vtrace_lambda: jax.Array | float  # in [0, 1]
    vtrace_leak_rho: jax.Array | float  # in [0, 1]; 1 is V-trace, 0 unclipped importance weights
    vtrace_leak_c: jax.Array | float  # in [0, 1]
    policy_cost: jax.Array | float
    value_cost: jax.Array | float
    entropy_cost: jax.Array | float
