"""Statistics of scores over games and seeds (Agarwal et al. 2021, arXiv 2108.13264).

Scores of one agent are `[S]` for each game; games may have different numbers of seeds. Intervals
are percentiles of the stratified bootstrap: seeds are drawn again within each game.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

_RESAMPLES = 2_000
_LEVEL = 0.95
_TRIM = 0.25  # of an interquartile mean, at each end
_TARGET = 1.0  # of the optimality gap: human scores
# Weights of Aitchison et al. 2022 (arXiv 2210.02019), fitted again to their data (R2 0.988).
ATARI_5 = {
    **{"battle_zone": 0.3820, "double_dunk": 0.0679, "name_this_game": 0.3108},
    **{"phoenix": 0.1241, "qbert": 0.0805},
}
FINAL_SHARE = 0.05  # of a run: of 200M frames the last 10M, as published (190M to 200M)


class Estimate(NamedTuple):
    """A value and its interval, each [...]."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


# Each takes the means of the games [..., G], all scores [..., N], and gives [...].
Aggregate = Callable[[np.ndarray, np.ndarray], np.ndarray]


def median(means: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Of the games' means over seeds."""
    del scores
    return np.median(means, axis=-1)


def mean(means: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Of the games' means over seeds."""
    del scores
    return means.mean(axis=-1)


def interquartile_mean(means: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Of the middle half of all runs."""
    del means
    count = scores.shape[-1]
    cut = int(_TRIM * count)
    return np.sort(scores, axis=-1)[..., cut : count - cut].mean(axis=-1)


def optimality_gap(means: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How far all runs stay below 1 on average; what is above it does not make up for it."""
    del means
    return _TARGET - np.minimum(scores, _TARGET).mean(axis=-1)


AGGREGATES: dict[str, Aggregate] = {
    "median": median,
    "IQM": interquartile_mean,
    "mean": mean,
    "optimality gap": optimality_gap,
}


def aggregate(scores: Sequence[np.ndarray], rng: np.random.Generator) -> dict[str, Estimate]:
    """All aggregates with their intervals.

    Args:
        scores: normalised, [S] for each game.
        rng: draws the bootstrap.
    """
    known, drawn = _summarised([s[None] for s in scores]), _summarised(_resample(scores, rng))
    return {
        name: _estimate(function(*known)[0], function(*drawn))
        for name, function in AGGREGATES.items()
    }


def aggregate_over_time(
    scores: Sequence[np.ndarray], name: str, rng: np.random.Generator
) -> Estimate:
    """One aggregate at each of F frame counts, by the same draws of whole runs.

    Args:
        scores: normalised, [S, F] for each game.
        name: of the aggregate.
        rng: draws the bootstrap.

    Returns:
        [F] each.
    """
    function, chosen = AGGREGATES[name], _draws([len(s) for s in scores], rng)
    columns = []
    for frame in range(scores[0].shape[1]):
        now = [s[:, frame] for s in scores]
        drawn = [s[index] for s, index in zip(now, chosen, strict=True)]
        value = function(*_summarised([s[None] for s in now]))[0]
        columns.append(_estimate(value, function(*_summarised(drawn))))
    return Estimate(*(np.asarray(part) for part in zip(*columns, strict=True)))


def atari_5(scores: Mapping[str, np.ndarray], rng: np.random.Generator) -> Estimate:
    """Atari-5: one number of five games, in percent, that orders agents as all games would.

    Aitchison et al. 2022 (arXiv 2210.02019). It is fitted to predict the median of 57 games; it is
    no median.

    Args:
        scores: human-normalised, [S] for each of its five games at least.
        rng: draws the bootstrap.
    """
    games, weights = [scores[game] for game in ATARI_5], np.array(list(ATARI_5.values()))

    def score(means: np.ndarray) -> np.ndarray:
        return 10 ** (np.log10(1 + 100 * np.maximum(0.0, means)) @ weights) - 1

    known, drawn = _summarised([s[None] for s in games]), _summarised(_resample(games, rng))
    return _estimate(score(known[0])[0], score(drawn[0]))


def performance_profile(
    scores: Sequence[np.ndarray], thresholds: np.ndarray, rng: np.random.Generator
) -> Estimate:
    """The share of runs whose score is above each threshold [P]."""

    def share(every: np.ndarray) -> np.ndarray:
        ordered = np.sort(every, axis=-1)
        above = [
            every.shape[-1] - np.searchsorted(row, thresholds, side="right") for row in ordered
        ]
        return np.asarray(above) / every.shape[-1]

    value = share(np.concatenate(scores)[None])[0]
    return _estimate(value, share(np.concatenate(_resample(scores, rng), axis=-1)))


def relative_score(score: float, baseline: float, random: float, human: float) -> float:
    """How much better than a baseline in a game, in the larger of its and the human's range.

    Wang et al. 2016 (arXiv 1511.06581), equation 10; 0 is equal, 1 is a whole range better.
    """
    return (score - baseline) / (max(human, baseline) - random)


def _draws(counts: Sequence[int], rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(count, size=(_RESAMPLES, count)) for count in counts]


def _resample(scores: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Of each game [resamples, S]."""
    chosen = _draws([len(s) for s in scores], rng)
    return [s[index] for s, index in zip(scores, chosen, strict=True)]


def _summarised(scores: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Means of the games [R, G] and all scores [R, N], of [R, S] for each game."""
    means = np.stack([s.mean(axis=-1) for s in scores], axis=-1)
    return means, np.concatenate(scores, axis=-1)


def _estimate(value: np.ndarray, resampled: np.ndarray) -> Estimate:
    """The value with the percentiles over the first axis of `resampled`."""
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return Estimate(np.asarray(value), low, high)


def final_score(frames: np.ndarray, returns: np.ndarray, total: int) -> float:
    """The mean training return over the last part of a run, NaN if there is none.

    Args:
        frames: [N], increasing.
        returns: [N], mean returns of the recent episodes then; NaN where none had ended.
        total: frames of the whole run, of which the last twentieth counts.
    """
    last = (frames > (1 - FINAL_SHARE) * total) & np.isfinite(returns)
    if not last.any():
        return math.nan
    return float(returns[last].mean())
