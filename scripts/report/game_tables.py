"""Tables of runs on games that have a human's score."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from actors.environments.atari_games import BY_NAME
from scripts.report import scores
from scripts.report.comparison import Comparison
from scripts.report.figures import span
from scripts.report.game_figures import BASELINES, Drawing, published_scores
from scripts.report.returns import final_return, normalised
from scripts.report.tables import percent, rounded, spread


def game_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Raw and human-normalised final training returns: a row for each game and agent."""
    rows = []
    for agent in comparison.agents:
        for game, runs in agent.runs.items():
            raw = np.array([final_return(run, comparison.total) for run in runs])
            raw = raw[np.isfinite(raw)]
            mean = float(raw.mean()) if len(raw) else None
            row = {
                "game": game,
                "agent": agent.label,
                "algorithm": agent.algorithm,
                "seeds": len(raw),
                "return": rounded(mean),
                "standard deviation": spread(raw),
                "human-normalised": _of_human(game, mean),
                "each seed": " ".join(f"{value:.6g}" for value in raw) or None,
            }
            rows.append(row)
    return sorted(rows, key=lambda row: (row["game"], row["agent"]))


def _of_human(game: str, mean: float | None) -> str | None:
    if mean is None or game not in BY_NAME:
        return None
    return percent(normalised(game, mean))


def aggregate_rows(drawing: Drawing) -> list[dict[str, Any]]:
    """Aggregates with their intervals, a row for each agent, then published ones."""
    rows = []
    for agent in drawing.agents:
        seeds = sorted({len(game) for game in drawing.scored[agent.label]})
        row = {"agent": agent.label, "algorithm": agent.algorithm, "seeds": span(seeds)}
        for name, e in drawing.estimates[agent.label].items():
            interval = f" ({percent(e.low)} to {percent(e.high)})" if seeds != [1] else ""
            row[name] = percent(e.value) + interval
        rows.append(row)
    for column, label in BASELINES.items():
        means = np.asarray(published_scores(column, drawing.comparison.games))
        row: dict[str, Any] = {"agent": f"{label}, published, 200M frames"}
        for name, function in scores.AGGREGATES.items():  # of per-game means: no IQM of runs
            per_run = name in ("IQM", "optimality gap")
            row[name] = None if per_run else percent(function(means[None], means[None])[0])
        rows.append(row)
    return rows


def evaluation_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Scores of separate evaluations at fixed frame counts; each protocol has rows of its own."""
    groups: dict[tuple, dict[Path, dict[str, Any]]] = {}
    for agent in comparison.agents:
        for game, runs in agent.runs.items():
            for run, evaluation in ((r, e) for r in runs for e in r.evaluations):
                every = run.config.get("evaluation.every_frames") or 1
                frames = evaluation["frames"]
                if evaluation.get("snapshot"):
                    frames = frames // every * every  # it was taken by the update that reached it
                protocol = {k: v for k, v in evaluation["protocol"].items() if k != "actions"}
                how = json.dumps(protocol, sort_keys=True)
                key = game, agent.label, evaluation["policy"], how, frames
                groups.setdefault(key, {})[run.path] = evaluation
    rows = []
    for (game, label, policy, how, frames), by_run in sorted(groups.items()):
        members, protocol = list(by_run.values()), json.loads(how)
        mean = float(np.mean([member["mean_return"] for member in members]))
        rows.append(
            {
                "game": game,
                "agent": label,
                "frames": frames,
                "policy": policy,
                "no-ops": protocol.get("noop_max"),
                "sticky actions": protocol.get("sticky_actions"),
                "most frames": protocol.get("max_episode_frames"),
                "ale-py": protocol.get("ale_py"),
                "seeds": len(members),
                "episodes": sum(member["episodes"] for member in members),
                "return": rounded(mean),
                "human-normalised": _of_human(game, mean),
            }
        )
    return rows
