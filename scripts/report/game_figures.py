"""Figures of runs on many games: section 5.2 of Flennerhag et al. 2021."""

import csv
import functools
import importlib.resources
import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from actors.environments.atari_games import BY_NAME
from scripts.report import scores
from scripts.report.comparison import Agent, Comparison, counted
from scripts.report.figures import (
    draw_band,
    few_ticks,
    label_levels,
    label_steps,
    legend_above,
    line_style,
    new_figure,
    percent_axis,
    span,
)
from scripts.report.returns import (
    final_return,
    final_scores,
    frame_grid,
    normalised,
    scores_over_time,
)
from scripts.report.runs import Run
from scripts.report.scores import Estimate
from scripts.report.tables import percent

_THRESHOLDS = 81
_LARGEST_THRESHOLD = 8.0
_SEED = 0  # of the bootstrap: the same runs give the same report
_ABLATED = {
    "meta.target_optimizer": "target's optimiser",
    "meta.matching": "matching function",
    "meta.bootstrap_steps": "bootstrap steps L",
}
# Columns of published/atari57_200m.csv, all at 200M frames.
BASELINES = {"impala_deep": "IMPALA deep", "stacx_discorl": "STACX (DiscoRL)"}


class Drawing(NamedTuple):
    """What figures are drawn from, computed once."""

    comparison: Comparison
    styles: dict[str, Any]  # of each agent's label
    # Normalised final scores [S] of each game, of agents that have some in all games.
    scored: dict[str, list[np.ndarray]]
    estimates: dict[str, dict[str, Estimate]]  # aggregates of those agents
    rng: np.random.Generator

    @property
    def agents(self) -> list[Agent]:
        """Those that have scores: episodes ended late in their runs of all games."""
        return [agent for agent in self.comparison.agents if agent.label in self.scored]

    @property
    def caption(self) -> str:
        """How many games and seeds the scores are of, and what their intervals are."""
        counts = sorted({len(seeds) for games in self.scored.values() for seeds in games} or {0})
        seeds, games = span(counts), len(self.comparison.games)
        told = f"{counted(games, 'game')}, {seeds} seed{'' if seeds == '1' else 's'}"
        return told if counts == [1] else f"{told}; 95% bootstrap intervals"


def prepare(comparison: Comparison) -> Drawing:
    """Computes what the figures of agents share."""
    rng = np.random.default_rng(_SEED)
    scored = {}
    for agent in comparison.agents:
        final = final_scores(agent.runs, comparison.games, comparison.total)
        if final and all(len(game) for game in final):
            scored[agent.label] = final
    styles = {agent.label: line_style(index) for index, agent in enumerate(comparison.agents)}
    estimates = {label: scores.aggregate(final, rng) for label, final in scored.items()}
    return Drawing(comparison, styles, scored, estimates, rng)


# Each returns a figure, or None where there is nothing to draw.


def draw_aggregates(drawing: Drawing) -> Any:
    """A panel for each aggregate, a line for each agent."""
    estimates, styles = drawing.estimates, drawing.styles
    if not estimates:
        return None
    names, labels = list(scores.AGGREGATES), list(estimates)
    figure, ((*panels,),) = new_figure(0.9 + 0.32 * len(labels), columns=len(names), sharey=True)
    for panel, name in zip(panels, names, strict=True):
        for y, label in enumerate(labels):
            e = estimates[label][name]
            panel.plot(
                [e.low, e.high], [y, y], color=styles[label]["color"], linewidth=6, alpha=0.4
            )
            panel.plot(e.value, y, "|", color="black", markersize=12)
        panel.set_title(name, fontsize=9)
        panel.margins(y=0.5 / len(labels))
        percent_axis(panel.xaxis)
        panel.xaxis.set_major_locator(few_ticks(2))
        panel.tick_params(axis="x", labelsize=7)
    panels[0].set_yticks(range(len(labels)), [_wrap(label) for label in labels])
    panels[0].invert_yaxis()
    figure.supxlabel(f"human-normalised score, {drawing.caption}", fontsize=8)
    return figure


def draw_over_frames(drawing: Drawing, name: str) -> Any:
    """An aggregate over frames, with where published agents ended."""
    comparison, agents = drawing.comparison, drawing.agents
    if not agents:
        return None
    grid = frame_grid(comparison.total)
    figure, ((axes,),) = new_figure(3.6)
    for agent in agents:
        over = scores_over_time(agent.runs, comparison.games, grid)
        estimate = scores.aggregate_over_time(over, name, drawing.rng)
        draw_band(axes, grid, estimate, agent.label, drawing.styles[agent.label])
    label_steps(axes, "environment frames")
    axes.set_xlim(0, comparison.total)
    axes.set_ylabel(f"{name} human-normalised score")
    percent_axis(axes.yaxis)
    axes.set_title(drawing.caption, fontsize=9)
    legend_above(figure, axes)
    if name == "median":
        _draw_baselines(axes, comparison.games)
    return figure


def _draw_baselines(axes: Any, games: list[str]) -> None:
    """Where published agents ended, without a change of the range of the curves."""
    low, high = axes.get_ylim()
    levels = []
    for column, label in BASELINES.items():
        final = float(np.median(published_scores(column, games)))
        levels.append((f"{label} at 200M frames: {percent(final)}", final))
        if low <= final <= high:
            axes.axhline(final, color="0.4", linestyle=":", linewidth=1)
    axes.set_ylim(low, high)
    label_levels(axes, levels)


def draw_profiles(drawing: Drawing) -> Any:
    """The share of runs above each score, over several games."""
    final = drawing.scored
    if not final or len(drawing.comparison.games) < 2:
        return None
    largest = max(float(np.concatenate(games).max()) for games in final.values())
    thresholds = np.linspace(0, min(_LARGEST_THRESHOLD, max(1.0, largest)), _THRESHOLDS)
    figure, ((axes,),) = new_figure(3.4)
    for label, games in final.items():
        profile = scores.performance_profile(games, thresholds, drawing.rng)
        draw_band(axes, thresholds, profile, label, drawing.styles[label])
    axes.set_xlim(0, thresholds[-1])
    axes.set_ylim(-0.02, 1.02)
    percent_axis(axes.xaxis)
    axes.set_xlabel("human-normalised score")
    axes.set_ylabel("share of runs above it")
    axes.set_title(drawing.caption, fontsize=9)
    legend_above(figure, axes)
    return figure


def draw_relative_scores(drawing: Drawing) -> Any:
    """Each game's score relative to STACX, or to the first of two agents; of several games."""
    comparison = drawing.comparison
    pair = _pair(comparison.agents)
    if pair is None:
        return None
    baseline, agent = pair
    values = {}
    for game in comparison.games:
        ours, theirs = (_final_returns(a.runs[game], comparison.total) for a in (agent, baseline))
        if len(ours) and len(theirs):
            random, human = BY_NAME[game].random_score, BY_NAME[game].human_score
            means = float(ours.mean()), float(theirs.mean())
            values[game] = scores.relative_score(*means, random, human)
    if len(values) < 2:
        return None
    ordered = sorted(values, key=lambda game: values[game])
    figure, ((axes,),) = new_figure(1.0 + 0.14 * len(ordered))
    bars = [values[game] for game in ordered]
    # Two colours that grey tells apart as well.
    colours = ["#0072B2" if value >= 0 else "#E69F00" for value in bars]
    axes.barh(range(len(ordered)), bars, color=colours)
    axes.set_yticks(range(len(ordered)), [g.replace("_", " ") for g in ordered], fontsize=7)
    axes.margins(y=0.01)
    if max(map(abs, bars)) > 10 * (np.median(np.abs(bars)) + 0.01):
        axes.set_xscale("symlog", linthresh=0.1)
    percent_axis(axes.xaxis)
    axes.set_xlabel(
        f"({agent.label} - {baseline.label}) / (max(human, {baseline.label}) - random)", fontsize=8
    )
    better = sum(value > 0 for value in bars)
    axes.set_title(f"{agent.label} is better in {better} of {len(bars)} games", fontsize=9)
    return figure


def draw_ablations(drawing: Drawing) -> Any:
    """Medians of BMG agents that differ in one of what the paper ablates, a panel for each."""
    panels_of = {key: _varying(drawing.agents, key) for key in _ABLATED}
    panels_of = {key: found for key, found in panels_of.items() if len(found) > 1}
    if not panels_of:
        return None
    figure, panels = new_figure(3.0, columns=len(panels_of), sharey=True)
    for panel, (key, found) in zip(panels[0], panels_of.items(), strict=True):
        medians = [drawing.estimates[agent.label]["median"] for agent in found.values()]
        values = np.array([float(e.value) for e in medians])
        errors = np.abs(np.array([[e.low, e.high] for e in medians]).T - values)
        places = range(len(found))
        panel.bar(places, values, color="#56B4E9", edgecolor="black", width=0.6)
        panel.errorbar(places, values, yerr=errors, fmt="none", color="black", capsize=3)
        panel.set_xticks(places, [str(value).replace("_", "\n") for value in found])
        panel.set_title(_ABLATED[key], fontsize=9)
        panel.grid(axis="x", visible=False)
    panels[0][0].set_ylabel("median human-normalised score")
    percent_axis(panels[0][0].yaxis)
    figure.suptitle(drawing.caption, fontsize=9)
    return figure


def draw_bootstrap_steps(drawing: Drawing) -> Any:
    """Final returns for each L, games side by side (six at most)."""
    comparison = drawing.comparison
    by_steps = _varying(comparison.agents, "meta.bootstrap_steps")
    known = {
        game: {n: _final_returns(a.runs[game], comparison.total) for n, a in by_steps.items()}
        for game in comparison.games
    }
    games = [game for game, of in known.items() if sum(len(final) > 0 for final in of.values()) > 1]
    games = games[:6]
    if not games:
        return None
    rows, columns = -(-len(games) // 3), min(3, len(games))
    figure, panels = new_figure(2.6 * rows, rows, columns)
    for panel, game in itertools.zip_longest(panels.flat, games):
        if game is None:
            panel.set_visible(False)
            continue
        means = []
        for steps, final in known[game].items():
            panel.plot([steps] * len(final), final, "o", color="0.6", markersize=4)
            means.append(final.mean() if len(final) else np.nan)
        panel.plot(list(by_steps), means, "-s", color="#0072B2")
        panel.set_xscale("log", base=2)
        panel.set_xticks(list(by_steps), [str(steps) for steps in by_steps])
        panel.minorticks_off()
        panel.set_title(game.replace("_", " "), fontsize=9)
        panel.set_xlabel("bootstrap steps L")
    panels[0][0].set_ylabel("final return (grey: each seed)")
    return figure


def _final_returns(runs: Sequence[Run], total: int) -> np.ndarray:
    """Raw final returns [S] of the runs that have one."""
    final = np.array([final_return(run, total) for run in runs])
    return final[np.isfinite(final)]


def _varying(agents: Sequence[Agent], key: str) -> dict[Any, Agent]:
    """BMG agents by their value of one ablated key, the others being the same.

    Clipping goes with the number of bootstrap steps, as published, and is not looked at. Of several
    such sets it is the largest one.
    """
    others = [other for other in _ABLATED if other != key]
    sets: dict[str, dict[Any, Agent]] = {}
    for agent in agents:
        if agent.config.get("agent.algorithm") == "bmg":
            same = json.dumps([agent.config.get(other) for other in others])
            sets.setdefault(same, {}).setdefault(agent.config.get(key), agent)
    largest = max(sets.values(), key=len, default={})
    return dict(sorted(largest.items(), key=lambda item: str(item[0]).zfill(6)))


def _pair(agents: list[Agent]) -> tuple[Agent, Agent] | None:
    """STACX and BMG, or the only two agents."""
    by_algorithm = {str(agent.config.get("agent.algorithm")): agent for agent in reversed(agents)}
    if {"stacx", "bmg"} <= by_algorithm.keys():
        return by_algorithm["stacx"], by_algorithm["bmg"]
    return (agents[0], agents[1]) if len(agents) == 2 else None


def published_scores(column: str, games: list[str]) -> list[float]:
    """Human-normalised scores of a published agent on the same games."""
    table = _published_table()
    return [normalised(game, float(table[game][column])) for game in games]


@functools.cache
def _published_table() -> dict[str, dict[str, str]]:
    text = importlib.resources.files("scripts").joinpath("published/atari57_200m.csv").read_text()
    return {row["game"]: row for row in csv.DictReader(text.splitlines())}


def _wrap(label: str) -> str:
    return label if len(label) < 24 else label.replace(" (", "\n(")
