"""Runs of any length and published agents side by side, at frames that they all have."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from scripts.report import scores
from scripts.report.comparison import Comparison
from scripts.report.figures import span
from scripts.report.html import Section
from scripts.report.published_agents import Published, of_game
from scripts.report.returns import normalised, return_at
from scripts.report.runs import Run
from scripts.report.tables import rounded, spread

_SEED = 0  # of the bootstrap: the same runs give the same table
_THESE = "these runs"


def report_common_frames(
    section: Section, comparison: Comparison, published: Sequence[Published]
) -> None:
    """Writes the tables at common frames: each game, and Atari-5's score where its games are there.

    There are none where no run has so many frames.
    """
    at = f"{comparison.frames:,}"
    section.table(f"At common frames: {at}", rows(comparison, published), "common_frames")
    title = f"Atari-5's score at {at} frames, in percent; it orders agents and is no median"
    section.table(title, atari_5_rows(comparison, published), "atari_5")


def rows(comparison: Comparison, published: Sequence[Published]) -> list[dict[str, Any]]:
    """A row for each game and agent: runs first, then published agents, the best one first."""
    rng = np.random.default_rng(_SEED)
    games: dict[str, list[dict[str, Any]]] = {}
    shown: dict[str, list[Run]] = {}
    for agent in comparison.side_by_side:
        for game, runs in agent.runs.items():
            shown.setdefault(game, []).extend(runs)
            values = _returns(runs, comparison.frames)
            e = scores.aggregate([values], rng)["mean"] if len(values) > 1 else None
            row = {
                **{"game": game, "agent": agent.label, "algorithm": agent.algorithm},
                "source": _THESE,
                "frames": comparison.frames,
                "return": rounded(values.mean()) if len(values) else None,
                "95% interval": _interval(e, 2),
                "standard deviation": spread(values),
                "seeds": len(values),
                **_how(runs),
            }
            games.setdefault(game, []).append(row)
    for game, found in games.items():
        found += _published_rows(of_game(published, shown[game]), comparison.frames)
    return [row for game in sorted(games) for row in games[game]]


def atari_5_rows(comparison: Comparison, published: Sequence[Published]) -> list[dict[str, Any]]:
    """Agents that have runs of its five games, then published ones; none if no run's agent has."""
    rng = np.random.default_rng(_SEED)
    found = []
    for agent in comparison.side_by_side:
        runs = [run for game in scores.ATARI_5 for run in agent.runs.get(game, [])]
        if any(run.suite != "atari" for run in runs):
            continue
        values = {
            game: np.array([normalised(game, value) for value in _returns(own, comparison.frames)])
            for game, own in agent.runs.items()
            if game in scores.ATARI_5
        }
        counts = sorted({len(own) for own in values.values()})
        if len(values) < len(scores.ATARI_5) or not counts[0]:
            continue
        e = scores.atari_5(values, rng)
        row = {
            **{"agent": agent.label, "source": _THESE, "frames": comparison.frames},
            "Atari-5": round(float(e.value), 1),
            "95% interval": _interval(e, 1) if counts[-1] > 1 else None,
            "seeds": span(counts),
            **_how(runs),
        }
        found.append(row)
    return found + _published_atari_5(published, comparison.frames) if found else []


def _published_rows(published: Iterable[Published], frames: int) -> list[dict[str, Any]]:
    found = []
    for entry in published:
        index = entry.nearest(frames)
        if index is None:
            continue
        row = {
            **{"game": entry.game, "agent": entry.agent, "source": entry.source},
            "frames": int(entry.frames[index]),
            "return": rounded(entry.scores[index]),
            "standard deviation": rounded(entry.deviations[index]),
            "seeds": int(entry.seeds[index]),
            **{"sticky actions": f"{entry.sticky:g}", "scores": entry.kind},
        }
        found.append(row)
    return sorted(found, key=lambda row: -row["return"])


def _published_atari_5(published: Iterable[Published], frames: int) -> list[dict[str, Any]]:
    agents: dict[tuple, dict[str, Published]] = {}
    for entry in published:
        if entry.game in scores.ATARI_5:
            key = entry.agent, entry.source, entry.sticky, entry.kind
            agents.setdefault(key, {})[entry.game] = entry
    found = []
    for (agent, source, sticky, kind), games in agents.items():
        at = {game: entry.nearest(frames) for game, entry in games.items()}
        points = {game: (games[game], index) for game, index in at.items() if index is not None}
        where = {int(entry.frames[index]) for entry, index in points.values()}
        if len(points) < len(scores.ATARI_5) or len(where) > 1:
            continue
        values = {
            game: np.array([normalised(game, float(entry.scores[index]))])
            for game, (entry, index) in points.items()
        }
        row = {
            **{"agent": agent, "source": source, "frames": where.pop()},
            "Atari-5": round(float(scores.atari_5(values, np.random.default_rng(_SEED)).value), 1),
            "seeds": span(sorted({int(entry.seeds[index]) for entry, index in points.values()})),
            **{"sticky actions": f"{sticky:g}", "scores": kind},
        }
        found.append(row)
    return sorted(found, key=lambda row: -row["Atari-5"])


def _returns(runs: list[Run], frames: int) -> np.ndarray:
    """Raw training returns [S] of the runs that have one by then."""
    values = np.array([return_at(run, frames) for run in runs])
    return values[np.isfinite(values)]


def _how(runs: list[Run]) -> dict[str, Any]:
    """What tells these runs from others in a table."""
    return {
        "sticky actions": ", ".join(sorted({f"{run.sticky_actions:g}" for run in runs})),
        "whole run": ", ".join(f"{n:,}" for n in sorted({run.total_frames for run in runs})),
        "scores": "mean of the last 100 training episodes",
    }


def _interval(estimate: scores.Estimate | None, digits: int) -> str | None:
    if estimate is None:
        return None
    return f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"
