"""Each run's own story: what it learned, how healthy it was and how fast, in small multiples.

Shapes: `S` seeds, `N` points.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from learner.reading import printable
from scripts.report.figures import COLOURS, WIDTH, few_ticks, label_steps, line_style, pyplot
from scripts.report.html import Section
from scripts.report.learning_curves import keys_of_heads
from scripts.report.runs import META, RETURN, REWARD, VALIDATION, Run, learned_in
from scripts.report.seed_statistics import binned_means, mean_interval
from scripts.report.tables import rounded

_MOST_RUNS = 12  # a figure takes a second or two, and 250 kB of the page
_MOST_SEEDS = 10  # that are drawn beside their mean
_MOST_POINTS = 300  # of a line: a panel has fewer pixels
_MOST_VALIDATIONS = 8
_LONGEST_PATH = 1_000  # characters
_COLUMNS = 5
_ROW = 1.22  # inches, of a panel with its title and the labels of its axis
_MARGIN = 0.42  # inches, below the last row
_WIDE = 10.0  # ratio of values from which on an ordinate is logarithmic
_THIN = {"linewidth": 0.7, "alpha": 0.35}
# Keys that docs/diagnosis.md names, their titles, and whether they are norms.
_HEALTH = {
    "loss/update_norm": ("update norm", True),
    "loss/relative_update_norm": ("relative update norm", True),
    "loss/gradient_norm": ("gradient norm", True),
    "loss/clipped": ("share of clipped updates", False),
    "loss/explained_variance": ("explained variance", False),
    "loss/entropy": ("entropy of the policy", False),
    "loss/total": ("loss", False),
}
_META_HEALTH = {
    "meta/loss": ("matching loss", True),
    "meta/gradient_norm": ("meta-gradient norm", True),
    "meta/target_distance": ("distance of the target", True),
    "meta/cosine": ("cosine, meta-gradient", False),
    "meta/greedy_changes": ("greedy actions changed", False),
}
_OF_ACTORS = {
    "policy_lag": "policy lag (thin: largest)",
    "actors/alive": "actors alive",
    "actors/restarts": "actors restarted",
    "actors/dropped": "unrolls dropped",
    "actors/lost": "unrolls lost",
}
_OF_THE_MACHINE = {
    "frames_per_second": "frames/s",
    "time/wait_for_batch": "wait for a batch (s)",
    "time/wait_for_step": "wait for a step (s)",
    "memory/total_mb": "memory (MiB)",
}
_OF_VALUES = {"step": "meta-steps (logits)", "gradient": "meta-gradients"}  # of each learned one
_LOWEST = {"loss/explained_variance": -1.0}  # far below, it says nothing (docs/diagnosis.md)


class Line(NamedTuple):
    """A line of a panel."""

    x: np.ndarray  # [N]
    y: np.ndarray  # [N]
    style: dict[str, Any]


class Panel(NamedTuple):
    """A small figure of one metric."""

    title: str
    lines: list[Line]
    of_factors: bool = False  # a ratio of its values says more than their difference
    lowest: float = -math.inf  # below which nothing is shown
    counts: bool = False  # its ordinate begins at 0


def report_stories(section: Section, runs: Sequence[Run]) -> None:
    """Draws each run's own story; of many the first ones, those that have not finished before.

    Args:
        section: takes them.
        runs: of any kind, at least one.
    """
    chosen = sorted(runs, key=lambda run: run.finished)[:_MOST_RUNS]
    if len(chosen) < len(runs):
        section.notes.append(
            f"{len(chosen)} of {len(runs)} runs have a story of their own here, those that have "
            "not finished first; `bmg report RUN` tells that of any"
        )
    for run in runs:
        if any(run is other for other in chosen):
            section.story(_title(run), _facts(run), draw_story(run), run.folder)


def draw_story(run: Run) -> Any:
    """A panel for each metric that a run has; None if it has none."""
    panels = panels_of(run)
    if not panels:
        return None
    rows = -(-len(panels) // _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    height = _ROW * rows + _MARGIN
    figure, axes = pyplot().subplots(rows, columns, figsize=(WIDTH * 1.4, height), squeeze=False)
    # As constrained layout would do it, which takes seconds for so many panels.
    figure.subplots_adjust(
        **{"left": 0.06, "right": 0.985, "top": 1 - 0.22 / height, "bottom": _MARGIN / height},
        **{"hspace": 0.45, "wspace": 0.42},
    )
    for panel, cell in zip(panels, axes.flat, strict=False):
        _draw(cell, panel)
        cell.set_xlim(0, run.end)
        label_steps(cell, "")
        cell.xaxis.set_major_locator(few_ticks(3))
    for cell in axes.flat[len(panels) :]:
        cell.set_visible(False)
    figure.supxlabel(_caption(run, panels), fontsize=7, y=0.08 / height)
    return figure


def panels_of(run: Run) -> list[Panel]:
    """What a run has of: outcome, learned values, health of both learners, actors, machine."""
    plain = {"color": COLOURS[0], "linewidth": 1.1}
    names = learned_in([run])
    styles = {name: line_style(index) | {"linewidth": 1.1} for index, name in enumerate(names)}
    found = _outcome(run, plain)
    for name, style in styles.items():
        lines = _lines(run, META + name, style)
        for key in keys_of_heads(name):
            lines += _lines(run, key, {**style, "linestyle": ":", "linewidth": 0.7})
        found.append(Panel(name.replace("_", " "), lines))
    found += _health(run, _HEALTH, plain)
    for kind, title in _OF_VALUES.items():
        every = [_lines(run, f"{META}{kind}/{name}", style) for name, style in styles.items()]
        found.append(Panel(title, [line for lines in every for line in lines], True))
    found += _health(run, _META_HEALTH, plain)
    if np.nanmax(run.logged.get("actors/alive", np.zeros(1)), initial=0.0) > 0:
        for key, title in _OF_ACTORS.items():
            lines = _lines(run, key, plain)
            lines += _lines(run, f"{key}_max", plain | _THIN)
            found.append(Panel(title, lines, counts=True))
    found += [Panel(title, _lines(run, key, plain)) for key, title in _OF_THE_MACHINE.items()]
    return [panel for panel in found if panel.lines]


def _outcome(run: Run, style: dict[str, Any]) -> list[Panel]:
    validations = [name for name in run.curves if name.startswith(VALIDATION)]
    if validations:
        titles = {
            name: name.removeprefix(VALIDATION).replace("_", " ")
            for name in validations[:_MOST_VALIDATIONS]
        }
        return [Panel(title, _lines(run, name, style)) for name, title in titles.items()]
    if run.together and RETURN not in run.curves:
        return [Panel("reward per step", _lines(run, REWARD, style))]
    return [Panel("episode return", _lines(run, RETURN, style))]


def _health(run: Run, metrics: dict[str, tuple[str, bool]], style: dict[str, Any]) -> list[Panel]:
    return [
        Panel(title, _lines(run, key, style), norm, _LOWEST.get(key, -math.inf))
        for key, (title, norm) in metrics.items()
    ]


def _lines(run: Run, key: str, style: dict[str, Any]) -> list[Line]:
    """A metric's line, or some seeds' thin ones and the mean of all; none without two points."""
    if run.together and key in run.curves:
        x, values = run.frames, run.curves[key]
        if key == REWARD:
            values = values / np.diff(x, prepend=0)
        if len(x) > _MOST_POINTS:
            edges = np.linspace(0, x[-1], _MOST_POINTS + 1)
            x, values = edges[1:], binned_means(x, values, edges)
    elif key in run.logged:
        x, values = run.logged["frames"], run.logged[key][None]
    else:
        return []
    found = [Line(x, y, style | _THIN) for y in values[:_MOST_SEEDS]] if len(values) > 1 else []
    found.append(Line(x, mean_interval(values).value, style))
    return [line for line in found if np.isfinite(line.y).sum() > 1]  # a point is no story


def _draw(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter

    for x, y, style in panel.lines:
        known = np.isfinite(y)
        axes.plot(x[known], y[known], **style)
    axes.set_title(panel.title, fontsize=7, pad=2)
    axes.tick_params(labelsize=6, pad=1, length=2)
    axes.margins(y=0.08)
    axes.yaxis.set_major_locator(few_ticks(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:.6g}"))
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in panel.lines])
    positive = values[values > 0]
    if panel.of_factors and len(positive) and positive.max() / positive.min() >= _WIDE:
        _scale_by_factors(axes, positive, with_zero=bool((values <= 0).any()))
    elif panel.counts:
        axes.set_ylim(0.0, 1.1 * max(values.max(), 1.0))
        axes.yaxis.set_major_locator(few_ticks(4, whole=True))
    elif values.min() < panel.lowest:
        axes.set_ylim(panel.lowest, max(values.max(), 0.0) + 0.1)
        axes.set_title(f"{panel.title} (above {panel.lowest:g})", fontsize=7, pad=2)


def _scale_by_factors(axes: Any, positive: np.ndarray, *, with_zero: bool) -> None:
    """Makes the ordinate logarithmic; 0, as of what is frozen, stands apart at its bottom."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = math.log10(positive.min()), math.log10(positive.max())
    powers = range(math.ceil(low), math.floor(high) + 1)
    ticks = [10.0**power for power in powers[:: max(1, round(len(powers) / 3))]]
    if len(powers) < 2:
        ticks = [10.0 ** math.floor(low) * factor for factor in (1, 2, 5, 10, 20, 50)]
    formatter = axes.yaxis.get_major_formatter()
    if with_zero:
        axes.set_yscale("symlog", linthresh=float(positive.min()), linscale=0.5)
        axes.set_ylim(bottom=0.0)
        ticks = [0.0, *ticks]
    else:
        axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(formatter)
    axes.yaxis.set_minor_locator(NullLocator())


def _caption(run: Run, panels: Sequence[Panel]) -> str:
    """What the abscissa counts, and what the lines are."""
    told = ["environment steps of each seed" if run.together else "environment frames"]
    if run.of_tasks:
        told = ["tasks of each seed"]
    if any(panel.title in _OF_VALUES.values() for panel in panels):
        told.append("steps and gradients are drawn as the values that they are of")
    if len(run.seeds) > 1:
        told.append("thin: single seeds")
    if any(key in run.logged for name in learned_in([run]) for key in keys_of_heads(name)):
        told.append("thin and dotted: auxiliary heads")
    return "; ".join(told)


def _title(run: Run) -> str:
    seeds = f"{len(run.seeds)} seeds" if len(run.seeds) > 1 else f"seed {run.seed}"
    return f"{run.folder}: {run.algorithm} on {run.game}, {seeds}, {run.status}"


def _facts(run: Run) -> dict[str, Any]:
    """What a reader looks for first; None where it is not known."""
    seconds = run.logged.get("seconds", run.seconds)
    pace = run.logged.get("frames_per_second", np.full(1, np.nan))
    known = pace[np.isfinite(pace)]
    facts = {
        "folder": printable(str(run.path), _LONGEST_PATH),
        "reason": run.summary.get("reason"),
        "frames": f"{run.end:,} of {run.total_frames:,}",
        "hours": rounded(seconds[-1] / 3600),
        "frames/s, median": f"{np.median(known):,.0f}" if len(known) else None,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}
