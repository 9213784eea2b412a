"""Figures and tables of runs on many games: section 5.2 of Flennerhag et al. 2021."""

from collections.abc import Sequence

from actors.environments.atari_games import BY_NAME
from scripts.report import game_figures as figures
from scripts.report.comparison import Comparison, counted
from scripts.report.game_tables import aggregate_rows, evaluation_rows, game_rows
from scripts.report.html import Section, file_name
from scripts.report.learning_curves import draw_curves, draw_game
from scripts.report.published_agents import Published


def report_agents(section: Section, comparison: Comparison, published: Sequence[Published]) -> None:
    """Draws all figures of a comparison that its runs allow, and writes its tables.

    Args:
        section: takes them.
        comparison: with at least one agent.
        published: agents, of which some are drawn beside the runs of a game.
    """
    agents, games = comparison.agents, comparison.games
    drawing = figures.prepare(comparison)
    every = sorted({game for agent in agents for game in agent.runs})
    if len(every) > 1:  # of one there is a figure already
        section.figure(draw_curves(agents, every, drawing.styles), "curves")
    if drawing.agents and all(game in BY_NAME for game in games):
        title = f"Human-normalised scores, {counted(len(games), 'game')}"
        section.table(title, aggregate_rows(drawing), "aggregates")
        section.figure(figures.draw_aggregates(drawing), "aggregates")
        section.figure(figures.draw_over_frames(drawing, "median"), "median_over_frames")
        section.figure(figures.draw_over_frames(drawing, "IQM"), "iqm_over_frames")
        section.figure(figures.draw_profiles(drawing), "performance_profiles")
        section.figure(figures.draw_relative_scores(drawing), "relative_scores")
        section.figure(figures.draw_ablations(drawing), "ablations")
    section.figure(figures.draw_bootstrap_steps(drawing), "bootstrap_steps_by_game")
    for game in every:
        section.figure(
            draw_game(agents, game, drawing.styles, published), f"game_{file_name(game)}"
        )
    section.table("Scores", game_rows(comparison), "games")
    section.table("Separate evaluations", evaluation_rows(comparison), "evaluations")
