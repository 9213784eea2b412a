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
from scripts.report.tables import percent


def game_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Raw and human-normalised final training returns: a row for each game and agent."""
    rows = []
    for agent in comparison.agents:
        for game, runs in agent.runs.items():
            raw = np.array([final_return(run, comparison.total) for run in runs])
            raw = raw[np.isfinite(raw)]
            known = len(raw) > 0
            mean = float(raw.mean()) if known else None
            rows.append(
                {
                    "game": game,
                    "agent": agent.label,
                    "seeds": len(raw),
                    "return": _round(mean),
                    "standard deviation": _round(raw.std(ddof=1)) if len(raw) > 1 else None,
                    "human-normalised": percent(normalised(game, mean))
                    if mean is not None and game in BY_NAME
                    else None,
                    "each seed": " ".join(f"{value:.6g}" for value in raw) or None,
                }
            )
    return sorted(rows, key=lambda row: (row["game"], row["agent"]))


def aggregate_rows(drawing: Drawing) -> list[dict[str, Any]]:
    """Aggregates with their intervals, a row for each agent, then published ones."""
    rows = []
    for label, games in drawing.scored.items():
        row = {"agent": label, "seeds": span(sorted({len(game) for game in games}))}
        for name, e in drawing.estimates[label].items():
            row[name] = f"{percent(e.value)} ({percent(e.low)} to {percent(e.high)})"
        rows.append(row)
    for column, label in BASELINES.items():
        means = np.asarray(published_scores(column, drawing.comparison.games))
        row = {"agent": f"{label}, published, 200M frames", "seeds": None}
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
                "return": _round(mean),
                "human-normalised": percent(normalised(game, mean)) if game in BY_NAME else None,
            }
        )
    return rows


def _round(value: Any) -> float | None:
    return None if value is None else round(float(value), 2)
