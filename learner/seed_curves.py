"""The learning curves of runs of several seeds: `seeds.npz` of a run folder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from learner.on_device import CurvePoint


class SeedCurves:
    """Collects points and writes them where `bmg report` reads them.

    The file holds `seeds` [S]; `frames` [N], environment steps of each seed at the end of each
    point; `reward` [S, N], collected in it; `meta/<name>` [S, N], means of learned
    hyper-parameters over its updates; where there are episodes, `episode_return` [S, N], mean of
    those that ended in it, NaN where none did; and, for Q(lambda) with a learned epsilon,
    `greedy_changes` [S, N], mean over its meta-updates. Few-shot learning has no rewards but
    `validation/<name>` and, for BMG, `meta/cosine` [S, N], of the state at its end. What the file
    of an earlier start lacks is NaN before.
    """

    def __init__(self, file: Path, seeds: Sequence[int]) -> None:
        self._file, self._seeds = file, np.asarray(seeds, np.int64)
        self._frames: list[int] = []
        self._curves: dict[str, list[np.ndarray]] = {}

    def read(self, frames: int) -> None:
        """Takes up the curves of earlier starts.

        Args:
            frames: of the checkpoint that the run goes on from; what comes after will come again.

        Raises:
            ValueError: it ends before that, or is of other seeds.
            Exception: it is gone or damaged; a damaged archive raises a dozen kinds.
        """
        # np.load would leave a file of its own open where the archive is damaged.
        with self._file.open("rb") as file, np.load(file) as saved:
            known = int(np.searchsorted(saved["frames"], frames, side="right"))
            self._frames = saved["frames"][:known].tolist()
            if self._frames[-1:] != [frames]:
                raise ValueError(
                    f"it has no point at {frames:,} steps, where the checkpoint stands"
                )
            if not np.array_equal(saved["seeds"], self._seeds):
                raise ValueError(f"it is of the seeds {saved['seeds'].tolist()}")
            names = [name for name in saved.files if name not in ("frames", "seeds")]
            self._curves = {name: list(saved[name].T[:known]) for name in names}

    def add(self, point: CurvePoint) -> None:
        """Takes one point."""
        given = {"reward": point.reward, **point.hyperparameters, **point.examined}
        curves = {name: values for name, values in given.items() if values is not None}
        if point.greedy_changes is not None:
            curves["greedy_changes"] = point.greedy_changes
        if point.episode_return is not None:
            curves["episode_return"] = point.episode_return
        unknown = np.full(len(self._seeds), np.nan, np.float32)
        for name, values in curves.items():
            known = self._curves.setdefault(name, [unknown] * len(self._frames))
            known.append(np.asarray(values, np.float32))
        self._frames.append(point.frames)

    def save(self) -> None:
        """Replaces the file, so that a reader sees the old one or the new one, never a part."""
        partial = self._file.with_name(self._file.name + ".partial")
        content: dict[str, Any] = {
            "seeds": self._seeds,
            "frames": np.asarray(self._frames, np.int64),
            **{name: np.stack(values, axis=1) for name, values in self._curves.items()},
        }
        try:
            with partial.open("wb") as file:
                np.savez_compressed(file, **content)
                file.flush()
                os.fsync(file.fileno())  # the checkpoint that follows must not be the newer one
            os.replace(partial, self._file)
        except OSError:
            partial.unlink(missing_ok=True)  # it would fill a full disk for good
            raise
