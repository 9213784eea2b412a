"""The look that all figures share: readable in print, in grey and by colour-blind eyes."""

import os
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.report.runs import Run
from scripts.report.scores import Estimate

# Okabe and Ito's colours without yellow, which is too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2, 1, 2, 1, 2)))
MARKERS = "osD^vP*X"
STYLE = {
    **{"font.size": 9, "legend.fontsize": 8, "axes.grid": True, "grid.alpha": 0.3},
    **{"pdf.fonttype": 42, "savefig.dpi": 200},  # 42: text of a PDF stays text
    "axes.formatter.useoffset": False,  # 0.994 is read at once, 0.004 with +9.9e-1 is not
    "text.parse_math": False,  # a game's name may have dollars in it
}
WIDTH = 7.0  # inches: a page's text
LINE_OF_TEXT = 0.165  # inches, of 8 points
_LETTERS = 112  # of 8 points, in a line of a legend
_LETTERS_OF_A_TITLE = 95  # of 9 points, in a line above axes with their labels
_LETTERS_OF_A_LEVEL = 24  # in a line of a label right of axes
_POINTS = 200  # of a mean over runs


def pyplot() -> Any:
    """`matplotlib.pyplot`, drawing into files only."""
    # Of a notebook it is a backend that need not be installed here; matplotlib refuses it.
    os.environ["MPLBACKEND"] = "Agg"
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def line_style(index: int) -> dict[str, Any]:
    """Each of the first 35 has a colour and dashes of its own: no figure needs its colours."""
    lines = LINES[(index + index // len(COLOURS)) % len(LINES)]
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": lines, "linewidth": 1.4}


def label_steps(axes: Any, text: str) -> None:
    """Environment steps or frames: 10M."""
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(text)


def new_figure(
    height: float, rows: int = 1, columns: int = 1, **keys: Any
) -> tuple[Any, np.ndarray]:
    """A figure of a page's width and its axes [rows, columns], which the caller may share."""
    size = WIDTH, height
    return pyplot().subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, **keys
    )


def titled(axes: Any, text: str) -> None:
    """Writes a title above some axes of a page's width, in as many lines as it takes."""
    axes.set_title(textwrap.fill(text, _LETTERS_OF_A_TITLE), fontsize=9)


def draw_band(axes: Any, x: np.ndarray, y: Estimate, label: str, style: dict[str, Any]) -> None:
    """A line with its interval, over the points [N] where it is known."""
    known = np.isfinite(y.value)
    x, (value, low, high) = x[known], (part[known] for part in y)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(x, value, label=label, **style)


def draw_points(
    axes: Any, x: Sequence[float], y: Sequence[Estimate], label: str, index: int
) -> None:
    """Points with their intervals; `index` chooses marker, colour and dashes."""
    value, low, high = (np.array(part) for part in zip(*y, strict=True))
    errors = np.nan_to_num(np.maximum([value - low, high - value], 0))
    marker = {"marker": MARKERS[index % len(MARKERS)], "capsize": 3}
    axes.errorbar(x, value, yerr=errors, label=label, **marker, **line_style(index))


def draw_runs(
    axes: Any, runs: Sequence[Run], key: str, label: str | None, style: dict[str, Any]
) -> None:
    """A metric of runs against frames: each of them thin, and their mean as far as all go."""
    curves = [(frames, values) for frames, values in (r.curve(key) for r in runs) if len(frames)]
    if len(curves) == 1:
        axes.plot(*curves[0], label=label, **style)
    elif curves:
        for frames, values in curves:
            axes.plot(frames, values, **{**style, "alpha": 0.3, "linewidth": 0.8})
        start, end = max(c[0][0] for c in curves), min(c[0][-1] for c in curves)
        grid = np.linspace(start, end, _POINTS)
        mean = np.mean([np.interp(grid, frames, values) for frames, values in curves], axis=0)
        axes.plot(grid, mean, label=label, **style)


def legend_above(figure: Any, axes: Any) -> None:
    """A legend of the lines of some axes above all axes; the figure grows by its lines."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    columns = max(1, min(len(labels), _LETTERS // (max(map(len, labels)) + 9)))
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + LINE_OF_TEXT * (rows + 0.5))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, handlelength=3.5)


def places_apart(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Middles of labels in [0, 1], as near to where they are wanted as none overlaps another.

    Args:
        wanted: shares of the height of some axes, largest first.
        heights: of the labels, in such shares.
    """
    places, top = list[float](), 1.0
    for share, height in zip(wanted, heights, strict=True):
        places.append(min(share, top - height / 2))
        top = places[-1] - height / 2
    bottom = 0.0
    for index in reversed(range(len(places))):
        places[index] = max(places[index], bottom + heights[index] / 2)
        bottom = places[index] + heights[index] / 2
    return places


def label_levels(axes: Any, levels: Sequence[tuple[str, float]]) -> None:
    """Names values right of some axes; those outside of its range at its edge, with an arrow.

    The axes' range stays as it is.

    Args:
        axes: with a linear ordinate, of a figure of constrained layout with all else in it.
        levels: labels and values.
    """
    if not levels:
        return
    figure = axes.figure
    figure.get_layout_engine().execute(figure)  # until then the axes' height is not known
    line = LINE_OF_TEXT * figure.dpi / axes.get_window_extent().height
    low, high = axes.get_ylim()
    ordered = sorted(levels, key=lambda level: -level[1])
    shares = [(value - low) / (high - low) for _, value in ordered]
    arrows = ["↑ " if share > 1 else "↓ " if share < 0 else "" for share in shares]
    texts = [
        textwrap.fill(arrow + label, _LETTERS_OF_A_LEVEL)
        for arrow, (label, _) in zip(arrows, ordered, strict=True)
    ]
    heights = [line * (1.0 + text.count("\n")) for text in texts]
    outside = {"transform": axes.transAxes, "clip_on": False}
    places = places_apart(np.clip(shares, 0.0, 1.0).tolist(), heights)
    for text, share, place in zip(texts, shares, places, strict=True):
        if 0 <= share <= 1:
            axes.plot([1.0, 1.02], [share, place], color="0.55", linewidth=0.6, **outside)
        axes.text(1.03, place, text, fontsize=7, color="0.3", va="center", **outside)


def span(numbers: Sequence[int]) -> str:
    """Of increasing numbers: 3, or 2 to 3."""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def percent_axis(axis: Any) -> None:
    """Shows shares in percent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0))


def few_ticks(most: int, *, whole: bool = False) -> Any:
    """A locator of at most so many ticks, of whole numbers alone if so wished."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, integer=whole)
