"""Figures of runs on many games: section 5.2 of Flennerhag et al. 2021."""

import csv
import functools
import importlib.resources
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actors.environments.atari_games import BY_NAME
from scripts.report import scores
from scripts.report.comparison import Agent, Comparison
from scripts.report.figures import WIDTH, few_ticks, label_steps, percent_axis, pyplot, save, span
from scripts.report.published_agents import Published, draw_published, drawn, legend_height
from scripts.report.returns import at, final_return, frame_grid, normalised, scores_over_time
from scripts.report.runs import learned_in
from scripts.report.scores import Estimate
from scripts.report.tables import percent

_THRESHOLDS = 81


_LARGEST_THRESHOLD = 8.0


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
    published: Sequence[Published]
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
        """How many games and seeds the scores are of."""
        counts = sorted({len(seeds) for games in self.scored.values() for seeds in games} or {0})
        seeds, games = span(counts), len(self.comparison.games)
        return f"{games} game{'' if games == 1 else 's'}, {seeds} seed{'' if seeds == '1' else 's'}"


def draw_aggregates(drawing: Drawing, stem: Path) -> bool:
    """A panel for each aggregate, a line for each agent."""
    estimates, styles = drawing.estimates, drawing.styles
    if not estimates:
        return False
    names, labels = list(scores.AGGREGATES), list(estimates)
    height = 0.9 + 0.32 * len(labels)
    figure, panels = pyplot().subplots(
        1, len(names), figsize=(WIDTH, height), sharey=True, layout="constrained"
    )
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
    figure.supxlabel(
        f"human-normalised score, {drawing.caption}; 95% bootstrap intervals", fontsize=8
    )
    save(figure, stem)
    return True


def draw_over_frames(drawing: Drawing, stem: Path, name: str) -> bool:
    """An aggregate over frames, with where published agents ended."""
    comparison, agents = drawing.comparison, drawing.agents
    if not agents:
        return False
    grid = frame_grid(comparison.total)
    figure, axes = pyplot().subplots(figsize=(WIDTH, 3.6), layout="constrained")
    for agent in agents:
        over = scores_over_time(agent.runs, comparison.games, grid)
        estimate = scores.aggregate_over_time(over, name, drawing.rng)
        _band(axes, grid, estimate, agent.label, drawing.styles[agent.label])
    if name == "median":
        for column, label in BASELINES.items():
            final = float(np.median(published_scores(column, comparison.games)))
            axes.axhline(final, color="0.4", linestyle=":", linewidth=1)
            text = f"{label} at 200M frames: {percent(final)}"
            axes.annotate(
                text, (0.01, final), xycoords=("axes fraction", "data"), fontsize=7, va="bottom"
            )
    label_steps(axes, "environment frames")
    axes.set_xlim(0, comparison.total)
    axes.set_ylabel(f"{name} human-normalised score")
    percent_axis(axes.yaxis)
    axes.set_title(f"{drawing.caption}; 95% bootstrap intervals", fontsize=9)
    figure.legend(loc="outside upper center", ncols=_columns(comparison.agents), handlelength=3.5)
    save(figure, stem)
    return True


def draw_profiles(drawing: Drawing, stem: Path) -> bool:
    """The share of runs above each score."""
    final = drawing.scored
    if not final:
        return False
    largest = max(float(np.concatenate(games).max()) for games in final.values())
    thresholds = np.linspace(0, min(_LARGEST_THRESHOLD, max(1.0, largest)), _THRESHOLDS)
    figure, axes = pyplot().subplots(figsize=(WIDTH, 3.4), layout="constrained")
    for label, games in final.items():
        profile = scores.performance_profile(games, thresholds, drawing.rng)
        _band(axes, thresholds, profile, label, drawing.styles[label])
    axes.set_xlim(0, thresholds[-1])
    axes.set_ylim(-0.02, 1.02)
    percent_axis(axes.xaxis)
    axes.set_xlabel("human-normalised score")
    axes.set_ylabel("share of runs above it")
    axes.set_title(drawing.caption, fontsize=9)
    figure.legend(
        loc="outside upper center", ncols=_columns(drawing.comparison.agents), handlelength=3.5
    )
    save(figure, stem)
    return True


def draw_relative_scores(drawing: Drawing, stem: Path) -> bool:
    """Each game's score relative to STACX, or to the first of two agents."""
    comparison = drawing.comparison
    pair = _pair(comparison.agents)
    if pair is None:
        return False
    baseline, agent = pair
    values = {}
    for game in comparison.games:
        ours, theirs = (
            float(np.nanmean([final_return(run, comparison.total) for run in a.runs[game]]))
            for a in (agent, baseline)
        )
        known = BY_NAME[game]
        value = scores.relative_score(ours, theirs, known.random_score, known.human_score)
        if math.isfinite(value):
            values[game] = value
    if not values:
        return False
    ordered = sorted(values, key=lambda game: values[game])
    height = 1.0 + 0.14 * len(ordered)
    figure, axes = pyplot().subplots(figsize=(WIDTH, height), layout="constrained")
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
    save(figure, stem)
    return True


def draw_ablations(drawing: Drawing, stem: Path) -> bool:
    """Medians of BMG agents that differ in one of what the paper ablates, a panel for each."""
    panels_of = {key: _varying(drawing.agents, key) for key in _ABLATED}
    panels_of = {key: found for key, found in panels_of.items() if len(found) > 1}
    if not panels_of:
        return False
    figure, panels = pyplot().subplots(
        1, len(panels_of), figsize=(WIDTH, 3.0), sharey=True, layout="constrained", squeeze=False
    )
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
    figure.suptitle(f"{drawing.caption}; 95% bootstrap intervals", fontsize=9)
    save(figure, stem)
    return True


def draw_bootstrap_steps(drawing: Drawing, stem: Path) -> bool:
    """Final returns for each L, games side by side (six at most)."""
    comparison = drawing.comparison
    by_steps = _varying(comparison.agents, "meta.bootstrap_steps")
    games = comparison.games[:6]
    if len(by_steps) < 2 or not games:
        return False
    rows, columns = -(-len(games) // 3), min(3, len(games))
    figure, panels = pyplot().subplots(
        rows, columns, figsize=(WIDTH, 2.6 * rows), layout="constrained", squeeze=False
    )
    for panel, game in itertools.zip_longest(panels.flat, games):
        if game is None:
            panel.set_visible(False)
            continue
        means = []
        for steps, agent in by_steps.items():
            final = np.array([final_return(run, comparison.total) for run in agent.runs[game]])
            final = final[np.isfinite(final)]
            panel.plot([steps] * len(final), final, "o", color="0.6", markersize=4)
            means.append(final.mean() if len(final) else np.nan)
        panel.plot(list(by_steps), means, "-s", color="#0072B2")
        panel.set_xscale("log", base=2)
        panel.set_xticks(list(by_steps), [str(steps) for steps in by_steps])
        panel.minorticks_off()
        panel.set_title(game.replace("_", " "), fontsize=9)
        panel.set_xlabel("bootstrap steps L")
    panels[0][0].set_ylabel("final return (grey: each seed)")
    save(figure, stem)
    return True


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


def draw_game(drawing: Drawing, stem: Path, game: str) -> bool:
    """A game's returns over frames, and the hyper-parameters that its agents have learned."""
    comparison, styles = drawing.comparison, drawing.styles
    agents = [agent for agent in comparison.agents if game in agent.runs]
    runs = [run for agent in agents for run in agent.runs[game]]
    names = learned_in(runs)
    grid = frame_grid(comparison.total)
    others = drawn(drawing.published, runs)
    rows = 1 + -(-len(names) // 4)
    height = 2.5 + 1.5 * (rows - 1) + legend_height(others)
    figure = pyplot().figure(figsize=(WIDTH, height), layout="constrained")
    cells = figure.add_gridspec(rows, 4, height_ratios=[2.0, *[1.2] * (rows - 1)])
    top = figure.add_subplot(cells[0, :])
    for agent in agents:
        _curves(top, agent.runs[game], "episode_return", grid, agent.label, styles[agent.label])
    known = bool(top.lines)
    draw_published(figure, top, others, runs)
    top.set_ylabel("episode return")
    label_steps(top, "environment frames")
    top.set_title(game.replace("_", " "), fontsize=9)
    for index, name in enumerate(names):
        panel = figure.add_subplot(cells[1 + index // 4, index % 4])
        for agent in agents:
            _curves(panel, agent.runs[game], f"meta/{name}", grid, None, styles[agent.label])
        panel.set_title(name.replace("_", " "), fontsize=8)
        panel.tick_params(labelsize=7)
        label_steps(panel, "")
        panel.xaxis.set_major_locator(few_ticks(2))
    if known:  # else no episode has ended
        figure.legend(loc="outside upper center", ncols=_columns(agents), handlelength=3.5)
    save(figure, stem)
    return True


def _curves(
    axes: Any, runs: Sequence[Any], key: str, grid: np.ndarray, label: str | None, style: Any
) -> None:
    """The mean over runs, and each of them thin."""
    rows = np.stack([at(run, key, grid) for run in runs])
    if np.isnan(rows).all():
        return
    for row in rows if len(rows) > 1 else ():
        axes.plot(grid, row, color=style["color"], linewidth=0.5, alpha=0.4)
    known = ~np.isnan(rows).any(axis=0)
    axes.plot(grid[known], rows[:, known].mean(axis=0), label=label, **style)


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


def _band(axes: Any, x: np.ndarray, estimate: Estimate, label: str, style: dict[str, Any]) -> None:
    axes.fill_between(x, estimate.low, estimate.high, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(x, estimate.value, label=label, **style)


def _columns(agents: Sequence[Agent]) -> int:
    """Of a legend, so that its texts fit a page's width."""
    longest = max(len(agent.label) for agent in agents)
    return max(1, min(len(agents), 112 // (longest + 9)))


def _wrap(label: str) -> str:
    return label if len(label) < 24 else label.replace(" (", "\n(")
