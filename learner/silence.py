"""Notices when hyper-parameters that should be learned are not, from the lines of a run's metrics.

Nothing else would show it: a meta-gradient that is zero, or that Adam's epsilon swallows, raises
no error, and the run finishes with hyper-parameters that nobody has tuned.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

# Lines of metrics in a row, each with the gradient of one update, and updates that they must span:
# a single batch may well say nothing about a hyper-parameter.
_LINES, _UPDATES = 3, 50
_AT_BOUND = 1e-3  # as a share of the range
# Adam moves a meta-parameter by learning_rate * gradient / epsilon where epsilon is much larger.
_SWALLOWED = 1e-2  # of epsilon


class _Lines(NamedTuple):
    """Silent lines in a row."""

    lines: int
    since: int  # learner updates at the first of them
    largest: float  # gradient in them


class Silence:
    """Remembers for how long each hyper-parameter has been silent, and names each once."""

    def __init__(self, uppers: Mapping[str, float], epsilon: float) -> None:
        """`uppers` of the learned hyper-parameters by name; the meta-optimiser's `epsilon`."""
        self._uppers, self._epsilon = dict(uppers), epsilon
        self._silent: dict[str, _Lines] = {}
        self._named: set[str] = set()

    def warnings(self, metrics: Mapping[str, Any]) -> list[str]:
        """Takes one line of metrics; gives a sentence for each name that has become silent."""
        found = []
        for name in self._uppers.keys() - self._named:
            gradient = metrics.get(f"meta/gradient/{name}")
            if gradient is None or not math.isfinite(gradient):
                continue
            if gradient > _SWALLOWED * self._epsilon:
                self._silent.pop(name, None)
                continue
            updates = metrics["learner_updates"]
            before = self._silent.get(name, _Lines(0, updates, 0.0))
            now = _Lines(before.lines + 1, before.since, max(before.largest, gradient))
            self._silent[name] = now
            if now.lines >= _LINES and updates - now.since >= _UPDATES:
                self._named.add(name)
                reason = self._reason(name, now.largest, metrics.get(f"meta/{name}"))
                found.append(f"{name} is not being learned: {reason}")
        return sorted(found)

    def _reason(self, name: str, largest: float, value: float | None) -> str:
        for bound in (0.0, self._uppers[name]):
            if value is not None and abs(value - bound) <= _AT_BOUND * self._uppers[name]:
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
