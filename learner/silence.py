"""Notices when hyper-parameters that should be learned are not, from the lines of a run's metrics.

Nothing else would show it: a meta-gradient that is zero, or that Adam's epsilon swallows, raises
no error, and the run finishes with hyper-parameters that nobody has tuned.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Lines of metrics in a row, each with the gradient of one update, and updates that they must span:
# a single batch may well say nothing about a hyper-parameter.
_LINES, _UPDATES = 3, 50
_TOLD = 5  # seeds of one sentence
_AT_BOUND = 1e-3  # as a share of the range
# Adam moves a meta-parameter by learning_rate * gradient / epsilon where epsilon is much larger.
_SWALLOWED = 1e-2  # of epsilon


class _Silent:
    """How long a hyper-parameter has been silent; a row for each seed."""

    def __init__(self, seeds: int) -> None:
        self.lines = np.zeros(seeds, int)  # in a row
        self.since = np.zeros(seeds, int)  # learner updates at the first of them
        self.largest = np.zeros(seeds)  # gradient in them
        self.named = np.zeros(seeds, bool)

    def dead(self, updates: int, gradient: np.ndarray, threshold: float) -> np.ndarray:
        """Takes a line, and gives the seeds [S] that it shows to be dead for the first time."""
        silent = gradient <= threshold  # what is not finite says nothing
        self.lines[gradient > threshold] = 0
        first = silent & (self.lines == 0)
        self.since[first], self.largest[first] = updates, 0.0
        self.lines[silent] += 1
        self.largest[silent] = np.maximum(self.largest, gradient)[silent]
        long = (self.lines >= _LINES) & (updates - self.since >= _UPDATES)
        found = silent & long & ~self.named
        self.named |= found
        return np.flatnonzero(found)


class Silence:
    """Remembers for how long each hyper-parameter has been silent, and names each once.

    Of several seeds in one program each is looked at: in their mean a dead one among living ones
    would not be seen.
    """

    def __init__(
        self, uppers: Mapping[str, float], epsilon: float, seeds: Sequence[int] = (0,)
    ) -> None:
        """Knows nothing yet.

        Args:
            uppers: of the learned hyper-parameters by name.
            epsilon: of the meta-optimiser.
            seeds: of the runs in this program.
        """
        self._uppers, self._epsilon, self._seeds = dict(uppers), epsilon, seeds
        self._silent = {name: _Silent(len(seeds)) for name in self._uppers}

    def warnings(self, metrics: Mapping[str, Any]) -> list[str]:
        """Takes one line of metrics; gives a sentence for each name that has become silent."""
        gradients = {name: metrics.get(f"meta/gradient/{name}") for name in self._uppers}
        return self.of_seeds(
            metrics["learner_updates"],
            {name: np.asarray([x]) for name, x in gradients.items() if x is not None},
            {name: np.asarray([metrics.get(f"meta/{name}", np.nan)]) for name in self._uppers},
        )

    def of_seeds(
        self, updates: int, gradients: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
    ) -> list[str]:
        """As `warnings`, where each seed has a row.

        Args:
            updates: of each seed.
            gradients: norms [S], means over the updates since the line before, by name.
            values: [S], by name.
        """
        found = []
        for name, silent in self._silent.items():
            gradient = gradients.get(name)
            if gradient is None or gradient.shape != silent.lines.shape:
                continue
            dead = silent.dead(updates, gradient, _SWALLOWED * self._epsilon)
            if len(dead):
                value = values[name][dead[0]] if name in values else np.nan
                reason = self._reason(name, float(silent.largest[dead[0]]), float(value))
                where = self._where([self._seeds[index] for index in dead])
                found.append(f"{name} is not being learned{where}: {reason}")
        return sorted(found)

    def _where(self, seeds: Sequence[int]) -> str:
        if len(self._seeds) == 1:
            return ""
        more = f" and {len(seeds) - _TOLD} more" if len(seeds) > _TOLD else ""
        return f" by seed {', '.join(map(str, seeds[:_TOLD]))}{more}"

    def _reason(self, name: str, largest: float, value: float) -> str:
        for bound in (0.0, self._uppers[name]):
            if abs(value - bound) <= _AT_BOUND * self._uppers[name]:
                return (
                    f"it sits at its bound {bound:g}, where its meta-gradient is at most "
                    f"{largest:.1g}; a smaller meta.learning_rate might have kept it away"
                )
        if largest == 0.0:
            return "its meta-gradient is exactly 0; it may act nowhere in this configuration"
        return (
            f"its meta-gradient is at most {largest:.1g}, far below meta.epsilon="
            f"{self._epsilon:g}; a smaller meta.epsilon would let it move"
        )
