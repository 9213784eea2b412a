"""Learning curves of the runs of one game, and the hyper-parameters that they have learned."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from scripts.report.comparison import Agent, Comparison, is_whole
from scripts.report.figures import (
    WIDTH,
    draw_runs,
    few_ticks,
    label_steps,
    legend_above,
    line_style,
    new_figure,
    pyplot,
)
from scripts.report.published_agents import Published, draw_published, drawn, legend_height
from scripts.report.runs import META, RETURN, Run, learned_in

_COLUMNS = 4  # panels of hyper-parameters
_MOST_GAMES = 12  # in one figure; each has one of its own, too
_MOST_HEADS = 16  # auxiliary ones


class Line(NamedTuple):
    """Runs that are drawn as one line: their mean."""

    label: str
    runs: list[Run]  # of one setting and game
    style: dict[str, Any]


def lines_of(comparison: Comparison) -> list[Line]:
    """A line for the whole runs of each setting, and one for each run that is not averaged."""
    lines = []
    others = itertools.count(len(comparison.settings))  # styles that no setting has
    for index, (name, runs) in enumerate(comparison.settings.items()):
        style, whole = line_style(index), list[Run]()
        several = len(runs) > 1
        for run in runs:
            if is_whole(run, comparison):
                whole.append(run)
            else:
                why = f"{run.end:,} frames" if run.finished else run.status
                own = line_style(next(others)) if several else style
                lines.append(Line(f"{name}, seed {run.seed} ({why})", [run], own))
        if len(whole) == 1:
            lines.append(Line(f"{name}, seed {whole[0].seed}", whole, style))
        elif whole:
            lines.append(Line(f"{name}, mean of {len(whole)} runs", whole, style))
    return lines


def draw_curve(lines: Sequence[Line], published: Sequence[Published]) -> Any:
    """Mean return of the recent episodes against frames, with reference scores.

    None if none of the runs knows one.

    Args:
        lines: of one game, at least one.
        published: agents, of which some in the same game are drawn as well.
    """
    runs = [run for line in lines for run in line.runs]
    if not any(map(_has_returns, runs)):
        return None
    others = drawn(published, runs)
    figure, ((axes,),) = new_figure(4 + legend_height(others))
    _draw_returns(axes, lines)
    random = [e for e in runs[0].evaluations if e["policy"] == "random"]
    if random:
        axes.axhline(random[0]["mean_return"], color="0.4", linestyle=":", label="random play")
    axes.set_ylabel("episode return (mean of the last 100)")
    axes.set_title(runs[0].game)
    legend_above(figure, axes)
    draw_published(figure, axes, others, runs)
    return figure


def draw_hyperparameters(lines: Sequence[Line]) -> Any:
    """Each learned hyper-parameter against frames; those of auxiliary heads dotted.

    None if no run has learned or replayed any.
    """
    names = learned_in(run for line in lines for run in line.runs)
    if not names:
        return None
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure, panels = new_figure(2.0 * rows + 0.3, rows, columns)
    for panel, name in zip(panels.flat, names, strict=False):
        _draw_learned(panel, lines, name)
    for panel in panels.flat[len(names) :]:
        panel.set_visible(False)
    legend_above(figure, panels.flat[0])
    return figure


def draw_curves(agents: Sequence[Agent], games: Sequence[str], styles: dict[str, Any]) -> Any:
    """Returns against frames of each game in which some are known, a dozen at most; or None."""
    lines = {game: _of_game(agents, game, styles) for game in games}
    every = [g for g in games if any(_has_returns(run) for line in lines[g] for run in line.runs)]
    known = every[:_MOST_GAMES]
    if not known:
        return None
    columns = min(_COLUMNS, len(known))
    rows = -(-len(known) // columns)
    figure, panels = new_figure((1.5 if columns > 2 else 2.4) * rows + 0.3, rows, columns)
    for panel, game in zip(panels.flat, known, strict=False):
        _draw_returns(panel, lines[game])
        panel.set_title(game.replace("_", " "), fontsize=8)
        panel.tick_params(labelsize=7)
        panel.set_xlabel("")
        panel.xaxis.set_major_locator(few_ticks(3))
    for panel in panels.flat[len(known) :]:
        panel.set_visible(False)
    told = f" (the first {len(known)} of {len(every)} games)" if len(known) < len(every) else ""
    figure.supxlabel(f"environment frames{told}", fontsize=8)
    figure.supylabel("episode return", fontsize=8)
    fullest = max(range(len(known)), key=lambda index: len(lines[known[index]]))
    legend_above(figure, panels.flat[fullest])
    return figure


def draw_game(
    agents: Sequence[Agent], game: str, styles: dict[str, Any], published: Sequence[Published]
) -> Any:
    """A game's returns over frames, and below them what its agents have learned.

    Only what is known; None if nothing is.
    """
    lines = _of_game(agents, game, styles)
    runs = [run for line in lines for run in line.runs]
    if not any(map(_has_returns, runs)):
        return draw_hyperparameters(lines)
    names = learned_in(runs)
    others = drawn(published, runs)
    rows = -(-len(names) // _COLUMNS)
    height = 2.3 + 1.5 * rows + legend_height(others)
    figure = pyplot().figure(figsize=(WIDTH, height), layout="constrained")
    cells = figure.add_gridspec(1 + rows, _COLUMNS, height_ratios=[2.0, *[1.2] * rows])
    top = figure.add_subplot(cells[0, :])
    _draw_returns(top, lines)
    top.set_ylabel("episode return")
    top.set_title(game.replace("_", " "), fontsize=9)
    for index, name in enumerate(names):
        row, column = divmod(index, _COLUMNS)
        _draw_learned(figure.add_subplot(cells[1 + row, column]), lines, name)
    legend_above(figure, top)
    draw_published(figure, top, others, runs)
    return figure


def _of_game(agents: Sequence[Agent], game: str, styles: dict[str, Any]) -> list[Line]:
    return [Line(a.label, a.runs[game], styles[a.label]) for a in agents if game in a.runs]


def _has_returns(run: Run) -> bool:
    return len(run.curve(RETURN)[0]) > 0


def keys_of_heads(name: str) -> list[str]:
    """Metrics of what auxiliary heads may have learned of a hyper-parameter."""
    return [f"{META}auxiliary_{head}/{name}" for head in range(1, _MOST_HEADS + 1)]


def _draw_returns(axes: Any, lines: Sequence[Line]) -> None:
    for label, runs, style in lines:
        draw_runs(axes, runs, RETURN, label, style)
    label_steps(axes, "environment frames")


def _draw_learned(axes: Any, lines: Sequence[Line], name: str) -> None:
    """A hyper-parameter; what auxiliary heads have learned is thin and dotted."""
    for label, runs, style in lines:
        draw_runs(axes, runs, META + name, label, style)
    thin = {"linestyle": ":", "linewidth": 0.8}
    of_heads = keys_of_heads(name)
    for key in of_heads:
        for _, runs, style in lines:
            draw_runs(axes, runs, key, None, style | thin)
    if any(of_heads[0] in run.curves for line in lines for run in line.runs):
        axes.plot([], [], color="0.4", label="auxiliary heads", **thin)
    axes.set_title(name.replace("_", " "), fontsize=8)
    axes.tick_params(labelsize=7)
    label_steps(axes, "frames")
    axes.xaxis.set_major_locator(few_ticks(2))
