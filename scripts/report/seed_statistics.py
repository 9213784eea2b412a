"""Numbers from the curves of several seeds: intervals over seeds, bins, what follows a swap.

Shapes: `S` seeds, `N` points, `B` bins. A point holds what happened since the point before it.
"""

import numpy as np
from scipy import special

from scripts.report.scores import Estimate

_BINS_OF_A_PERIOD = (100, 50, 25, 20, 10, 5, 4, 2, 1)


def spacing(frames: np.ndarray) -> float:
    """Environment steps of a usual point; the last one may be shorter."""
    return float(np.median(np.diff(frames, prepend=0)))


def mean_interval(values: np.ndarray) -> Estimate:
    """Mean over the first axis with its 95% t-interval; seeds that are not finite are left out.

    The interval is NaN where there is one seed.
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    count = known.sum(0)
    mean = np.divide(
        np.where(known, values, 0).sum(0), count, np.full(count.shape, np.nan), where=count > 0
    )
    squares = np.where(known, (values - mean) ** 2, 0).sum(0)
    freedom = np.maximum(count - 1, 1)
    half = special.stdtrit(freedom, 0.975) * np.sqrt(squares / freedom / np.maximum(count, 1))
    half = np.where(count > 1, half, np.nan)
    return Estimate(mean, mean - half, mean + half)


def cumulative(reward: np.ndarray) -> np.ndarray:
    """Reward [S, N] collected since the beginning, in double precision."""
    return np.cumsum(reward, axis=1, dtype=np.float64)


def binned_sums(frames: np.ndarray, amounts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """What falls into each bin, if the amount of a point is spread evenly over its steps.

    Args:
        frames: [N] environment steps at the end of each point.
        amounts: [S, N] of each point.
        edges: [..., B + 1] environment steps, increasing along the last axis.

    Returns:
        [S, ..., B], NaN in bins that end after the last point.
    """
    ends = np.concatenate([[0], frames])
    totals = np.pad(cumulative(amounts), ((0, 0), (1, 0)))
    right = np.clip(np.searchsorted(ends, edges), 1, len(frames))
    share = (edges - ends[right - 1]) / (ends[right] - ends[right - 1])
    at_edges = totals[:, right - 1] * (1 - share) + totals[:, right] * share
    return np.diff(np.where(edges <= ends[-1], at_edges, np.nan), axis=-1)


def binned_means(frames: np.ndarray, values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The mean over the steps of each bin; shapes as in `binned_sums`.

    Points that are not finite are left out; a bin without any other is NaN.
    """
    known = np.isfinite(values)
    width = np.diff(frames, prepend=0)
    sums = binned_sums(frames, np.where(known, values, 0) * width, edges)
    weights = binned_sums(frames, known * width, edges)
    return np.divide(sums, weights, np.full(sums.shape, np.nan), where=weights > 1e-6)


def swap_steps(end: float, period: int) -> np.ndarray:
    """Environment steps of the swaps after the first quarter of training."""
    swaps = np.arange(1, int(end // period) + 1) * period
    return swaps[(swaps >= end / 4) & (swaps < end)]


def bin_size(spacings: list[float], period: int) -> float:
    """Environment steps of a bin: a round part of a period, no shorter than points (by a tenth)."""
    bins = [count for count in _BINS_OF_A_PERIOD if 1.1 * period / count >= max(spacings)]
    return period / max(bins, default=1)


def within_a_period(frames: np.ndarray, values: np.ndarray, period: int) -> np.ndarray:
    """Values [S, N], NaN at the points across a swap: they say nothing about before or after it."""
    begins = np.concatenate([[0], frames[:-1]])
    return np.where(begins // period == (frames - 1) // period, values, np.nan)


def last_periods(ends: list[int], spacings: list[float], period: int) -> np.ndarray:
    """Edges [B + 1] of bins over the last four swap periods that all runs have reached."""
    end, size = min(ends), bin_size(spacings, period)
    last = max(1, int(np.ceil((end - max(spacings)) / period)))  # a run may end a bit off a swap
    first = max(0, last - 4)
    edges = first * period + size * np.arange(round((last - first) * period / size) + 1)
    return edges[edges <= end]


def mean_over_swaps(binned: np.ndarray) -> np.ndarray:
    """The mean over swaps [S, B] of what followed each of them [S, swaps, B]; NaN is left out."""
    return mean_interval(np.moveaxis(binned, 1, 0)).value


def rise_after_swap(
    frames: np.ndarray, values: np.ndarray, swaps: np.ndarray, period: int
) -> float | None:
    """How far a hyper-parameter rises after a swap, over its value just before.

    The maximum over the points of the first half-period less the last point before the swap: a
    schedule that is mere noise rises too, by the noise's range.

    Args:
        frames: [N] environment steps at the end of each point.
        values: [S, N].
        swaps: environment steps of each swap.
        period: environment steps between swaps.

    Returns:
        Mean over seeds and swaps; None if no half-period is complete.
    """
    rises = []
    for swap in swaps:
        before = int(np.searchsorted(frames, swap, "right"))
        after = int(np.searchsorted(frames, swap + period / 2, "right"))
        if before > 0 and after > before and swap + period / 2 <= frames[-1]:
            peak = np.fmax.reduce(values[:, before:after], axis=1)  # fmax passes NaN over
            rises.append(peak.astype(np.float64) - values[:, before - 1])
    mean = float(mean_interval(np.concatenate(rises)).value) if rises else np.nan
    return mean if np.isfinite(mean) else None
