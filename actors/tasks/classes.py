"""N-way classification: tasks that are drawn from a set of classes of images."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agents.few_shot import Examples, Sample, Task


class Classes(NamedTuple):
    """Images of C classes, of which the largest has E."""

    images: Any  # [M, H, W, channels] uint8
    index: Any  # [C, E] int32, where each class's images stand; -1 beyond its last


def make_classes(images: Sequence[np.ndarray]) -> Classes:
    """Makes them of the images [n, H, W, channels] of each class."""
    counts = [len(of_class) for of_class in images]
    index = np.full((len(images), max(counts)), -1, np.int32)
    for row, (count, end) in enumerate(zip(counts, np.cumsum(counts), strict=True)):
        index[row, :count] = np.arange(end - count, end)
    return Classes(np.concatenate(images), index)


def make_sample(ways: int, shots: int, queries: int) -> Sample:
    """Builds `sample(key, classes)`, which draws a task of `ways` different classes.

    Labels are 0 to ways - 1 in the order of drawing, anew for each task. No image comes twice.

    Args:
        ways: N.
        shots: images of each class that are learned from.
        queries: images of each class that are asked about; with `shots` no more than any has.
    """
    each = shots + queries

    def sample(key: jax.Array, data: Classes) -> Task:
        for_classes, for_images = jax.random.split(key)
        classes, largest = data.index.shape
        _, chosen = jax.lax.top_k(jax.random.uniform(for_classes, (classes,)), ways)
        there = jnp.asarray(data.index)[chosen]  # [ways, E]
        order = jnp.where(there < 0, -1.0, jax.random.uniform(for_images, (ways, largest)))
        _, drawn = jax.lax.top_k(order, each)
        images = jnp.asarray(data.images)[jnp.take_along_axis(there, drawn, axis=1)]
        return Task(_examples(images[:, :shots]), _examples(images[:, shots:]))

    return sample


def _examples(images: jax.Array) -> Examples:
    """From [ways, n, H, W, channels]."""
    ways, count = images.shape[:2]
    labels = jnp.repeat(jnp.arange(ways, dtype=jnp.int32), count)
    return Examples(images.reshape(-1, *images.shape[2:]), labels)
