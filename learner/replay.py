"""Uniform replay of unrolls, bounded in bytes, in host memory."""

import json
from typing import Any

import jax
import numpy as np

from agents.trajectory import Trajectory


class Replay:
    """The newest unrolls of single environments; samples with replacement, first in, first out.

    Memory is taken as the buffer fills. It is part of a checkpoint only where the source can be
    saved, too; else a resumed run fills a new one, from which it can sample as soon as the first
    batch is there.
    """

    def __init__(self, max_bytes: int, seed: tuple[int, ...]) -> None:
        """`max_bytes` bounds the arrays; at least one unroll is kept."""
        self._max_bytes = max_bytes
        self._random = np.random.default_rng(seed)
        self._store: Trajectory | None = None  # of arrays [capacity, T, ...]
        self._capacity = 0
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self._capacity)

    @property
    def bytes(self) -> int:
        """Of the unrolls that are kept."""
        return len(self) * _bytes_per_unroll(self._store) if self._store is not None else 0

    def add(self, trajectory: Trajectory) -> None:
        """Copies each of the B unrolls of a trajectory [T, B], over the oldest ones."""
        columns = jax.tree.map(lambda x: np.swapaxes(np.asarray(x), 0, 1), trajectory)
        if self._store is None:
            size = _bytes_per_unroll(columns)
            self._capacity = max(1, self._max_bytes // size)
            self._store = jax.tree.map(
                lambda x: np.empty((self._capacity, *x.shape[1:]), x.dtype), columns
            )
        count = columns.action.shape[0]
        slots = np.arange(self._added, self._added + count) % self._capacity
        jax.tree.map(lambda store, x: store.__setitem__(slots, x), self._store, columns)
        self._added += count

    def sample(self, count: int) -> Trajectory:
        """Draws `count` unrolls: a trajectory [T, count]. Something must have been added."""
        drawn = self._random.integers(len(self), size=count)
        return jax.tree.map(lambda x: np.swapaxes(x[drawn], 0, 1), self._store)

    def save(self) -> dict[str, np.ndarray]:
        """All that decides what is sampled next, as arrays by name."""
        random = np.asarray(json.dumps(self._random.bit_generator.state))
        saved = {"added": np.asarray(self._added), "random": random}
        if self._store is not None:
            saved |= {k: v[: len(self)].copy() for k, v in self._store._asdict().items()}
        return saved

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Goes on from what `save` of a replay with the same bound gave."""
        self._random.bit_generator.state = json.loads(str(saved["random"]))
        if int(saved["added"]):
            kept: dict[str, Any] = {
                name: np.swapaxes(saved[name], 0, 1) for name in Trajectory._fields
            }
            self.add(Trajectory(**kept))
        self._added = int(saved["added"])


def _bytes_per_unroll(columns: Trajectory) -> int:
    return sum(x[0].nbytes for x in columns)
