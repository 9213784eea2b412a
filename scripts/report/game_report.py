"""Figures and tables of runs on many games: section 5.2 of Flennerhag et al. 2021."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.environments.atari_games import BY_NAME
from scripts.report import scores
from scripts.report.comparison import Comparison
from scripts.report.figures import STYLE, Written, files_of, line_style, pyplot
from scripts.report.game_figures import (
    Drawing,
    draw_ablations,
    draw_aggregates,
    draw_bootstrap_steps,
    draw_game,
    draw_over_frames,
    draw_profiles,
    draw_relative_scores,
)
from scripts.report.game_tables import aggregate_rows, evaluation_rows, game_rows
from scripts.report.published_agents import Published
from scripts.report.returns import final_scores
from scripts.report.tables import write_tables

_LONGEST_FILE = 60  # characters, of at most four bytes each; a name has 255
_SEED = 0  # of the bootstrap: the same runs give the same report


def report_comparison(
    comparison: Comparison, folder: Path, suffix: str, published: Sequence[Published]
) -> Written:
    """Draws all figures of a comparison that its runs allow, and writes its tables.

    Args:
        comparison: with at least one agent.
        folder: exists.
        suffix: ends the names of all files.
        published: agents, of which some are drawn beside the runs of a game.
    """
    figures: list[str] = []
    agents, games = comparison.agents, comparison.games
    drawing = _prepare(comparison, published)

    def draw(name: str, function: Callable[..., bool], *arguments: Any) -> None:
        stem = folder / f"{name}{suffix}"
        if function(drawing, stem, *arguments):
            figures.append(stem.name)

    tables = [("Scores", game_rows(comparison))]
    files = write_tables(tables[0][1], folder, f"games{suffix}")
    with pyplot().rc_context(STYLE):
        if games and all(game in BY_NAME for game in games):
            rows = aggregate_rows(drawing)
            tables.insert(0, (f"Human-normalised scores, {len(games)} games", rows))
            files += write_tables(rows, folder, f"aggregates{suffix}")
            draw("aggregates", draw_aggregates)
            draw("median_over_frames", draw_over_frames, "median")
            draw("iqm_over_frames", draw_over_frames, "IQM")
            draw("performance_profiles", draw_profiles)
            draw("relative_scores", draw_relative_scores)
            draw("ablations", draw_ablations)
        draw("bootstrap_steps_by_game", draw_bootstrap_steps)
        for game in sorted({game for agent in agents for game in agent.runs}):
            draw(f"game_{file_name(game)}", draw_game, game)
    evaluated = evaluation_rows(comparison)
    if evaluated:
        tables.append(("Separate evaluations", evaluated))
        files += write_tables(evaluated, folder, f"evaluations{suffix}")
    return Written(figures, tables, [*files, *files_of(figures)])


def _prepare(comparison: Comparison, published: Sequence[Published]) -> Drawing:
    agents, games = comparison.agents, comparison.games
    rng = np.random.default_rng(_SEED)
    scored = {}
    for agent in agents:
        final = final_scores(agent.runs, games, comparison.total)
        if final and all(len(game) for game in final):
            scored[agent.label] = final
    return Drawing(
        comparison,
        published,
        {agent.label: line_style(index) for index, agent in enumerate(agents)},
        scored,
        {label: scores.aggregate(final, rng) for label, final in scored.items()},
        rng,
    )


def file_name(game: str) -> str:
    """A game's name as a part of a file's; Gymnasium's have slashes and colons."""
    return "".join(c if c.isalnum() or c in "_.-" else "_" for c in game)[:_LONGEST_FILE]
