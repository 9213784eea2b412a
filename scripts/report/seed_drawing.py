"""What the figures of runs of several seeds are drawn with."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scripts.report.figures import LINE_OF_TEXT, WIDTH, pyplot, save, span
from scripts.report.seed_runs import Group
from scripts.report.seed_statistics import Interval


class Curve(NamedTuple):
    """A line of a figure."""

    label: str
    style: dict[str, Any]
    x: np.ndarray  # [B]
    y: Interval  # of [B]


def caption(groups: list[Group]) -> str:
    """What the lines of groups of one world are, and which world."""
    counts = sorted({len(group.reward) for group in groups})
    seeds = f"mean and 95% interval of the mean over {span(counts)} seeds"
    return ("one seed" if counts == [1] else seeds) + f", {groups[0].world}"


def new_figure(height: float, rows: int = 1) -> tuple[Any, list[Any]]:
    """A figure of a page's width, and its axes, one below the other over the same steps."""
    figure, axes = pyplot().subplots(
        rows, 1, figsize=(WIDTH, height), layout="constrained", sharex=True, squeeze=False
    )
    return figure, list(axes[:, 0])


def draw_curve(axes: Any, curve: Curve) -> None:
    """A line with its band."""
    known = np.isfinite(curve.y.mean)  # the line goes on over a bin that lies across a swap
    x, (mean, low, high) = curve.x[known], (values[known] for values in curve.y)
    axes.fill_between(x, low, high, color=curve.style["color"], alpha=0.2, linewidth=0)
    axes.plot(x, mean, label=curve.label, **curve.style)


def label_ends(axes: Any, curves: list[Curve]) -> None:
    """Writes labels right of the axes, as near to the ends of their lines as none overlaps.

    Args:
        axes: with all lines drawn.
        curves: by their final values, largest first.
    """
    low, high = axes.get_ylim()
    line = LINE_OF_TEXT / (axes.figure.get_figheight() - 0.8)  # of the height of the axes
    heights = [line * (1.3 + curve.label.count("\n")) for curve in curves]
    places, top = [], 1.0
    for curve, height in zip(curves, heights, strict=True):
        end = (float(curve.y.mean[-1]) - low) / (high - low)
        places.append(min(end, top - height / 2))
        top = places[-1] - height / 2
    bottom = 0.0
    for index in reversed(range(len(curves))):
        places[index] = max(places[index], bottom + heights[index] / 2)
        bottom = places[index] + heights[index] / 2
    for curve, place in zip(curves, places, strict=True):
        outside = {"transform": axes.transAxes, "clip_on": False}
        axes.plot([1.015, 1.085], [place, place], **curve.style, **outside)
        axes.text(1.1, place, curve.label, va="center", fontsize=8, **outside)


def finish(figure: Any, title: str, stem: Path) -> None:
    """Title, a legend of all lines above the panels, and the files."""
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    columns = max(1, min(len(labels), 112 // (max(map(len, labels)) + 9)))  # 112 letters a line
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + LINE_OF_TEXT * (rows + 0.5))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, handlelength=3.5)
    figure.axes[0].set_title(title, fontsize=9)
    figure.align_ylabels()
    save(figure, stem)
