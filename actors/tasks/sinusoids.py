"""Sinusoids of MAML's regression: Finn et al. 2017 (arXiv 1703.03400), section 5.1."""

import jax
import jax.numpy as jnp

from agents.few_shot import Examples, Sample, Task

_AMPLITUDES, _PHASES, _INPUTS = (0.1, 5.0), (0.0, jnp.pi), (-5.0, 5.0)  # all uniform


def make_sample(shots: int, queries: int) -> Sample:
    """Builds `sample(key, data)`, which draws a sinusoid and points on it, and reads no data.

    Args:
        shots: points that are learned from.
        queries: points that are asked about.
    """

    def sample(key: jax.Array, data: object) -> Task:
        del data
        draws = jax.random.uniform(key, (2 + shots + queries,))
        amplitude, phase = _within(_AMPLITUDES, draws[0]), _within(_PHASES, draws[1])
        inputs = _within(_INPUTS, draws[2:, None])
        labels = amplitude * jnp.sin(inputs - phase)
        return Task(
            Examples(inputs[:shots], labels[:shots]), Examples(inputs[shots:], labels[shots:])
        )

    return sample


def _within(bounds: tuple[float, float], uniform: jax.Array) -> jax.Array:
    low, high = bounds
    return low + (high - low) * uniform
