"""Random streams: every server's and every environment's own, from one seed."""

import jax
import numpy as np

_SEEDS = 2**31  # ale-py takes non-negative 32-bit integers
_STRIDE = 0x9E3779B1  # odd, so that index -> index * stride is one-to-one modulo 2**31


def environment_seeds(seed: int, serial: int, num_envs: int) -> np.ndarray:
    """Seeds of one server's environments.

    The n-th environment ever made in a run gets `offset + n * stride` modulo 2**31: as the stride
    is odd, no two of the first 2**31 environments share a seed, over all actors, their
    replacements and the run's restarts. (Neighbouring integers would collide: ale-py itself counts
    upwards from the seed that it is given.)

    Args:
        seed: of the run.
        serial: number of the server within the run; each is used once.
        num_envs: of each server.

    Returns:
        [num_envs] int32 in [0, 2**31).
    """
    offset = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    first = serial * num_envs
    seeds = [(offset + n * _STRIDE) % _SEEDS for n in range(first, first + num_envs)]
    return np.asarray(seeds, np.int32)


def policy_key(seed: int, serial: int) -> jax.Array:
    """The key of one server's action draws; unlike every other server's."""
    return jax.random.fold_in(jax.random.key(seed), serial)
