"""Numbers read off runs: returns and scores, at the end or at given frames."""

import math
from collections.abc import Mapping

import numpy as np

from actors.environments.atari_games import BY_NAME, human_normalised_score
from scripts.report.runs import RETURN, Run
from scripts.report.scores import final_score

_POINTS = 50  # of a curve
SHORTFALL = 0.005  # of its frames, that a finished run may lack


def at(run: Run, key: str, grid: np.ndarray) -> np.ndarray:
    """A metric at frame counts [F]; NaN before it is first known."""
    frames, values = run.curve(key)
    if not len(frames):
        return np.full(len(grid), np.nan)
    return np.interp(grid, frames, values, left=np.nan)


def frame_grid(total: int) -> np.ndarray:
    """Frame counts [F] of all curves."""
    return np.linspace(total / _POINTS, total, _POINTS)


def final_return(run: Run, total: int) -> float:
    """The mean raw training return of the last twentieth of the run."""
    return final_score(*run.curve(RETURN), total)


def return_at(run: Run, frames: int) -> float:
    """As `final_return`, had the run ended at `frames`; NaN if no episode had.

    Between lines that are farther apart than that twentieth, what lies between their returns.
    """
    where, returns = run.curve(RETURN)
    until = where <= (1 + SHORTFALL) * frames
    mean = final_score(where[until], returns[until], frames)
    if math.isfinite(mean) or not until.any():
        return mean
    return float(np.interp(frames, where, returns))


def normalised(game: str, score: float) -> float:
    """Human-normalised, of the 57 games; else as it is."""
    return human_normalised_score(game, score) if game in BY_NAME else score


def final_scores(runs: Mapping[str, list[Run]], games: list[str], total: int) -> list[np.ndarray]:
    """Normalised final scores [S] of each game, of runs that have one."""
    found = []
    for game in games:
        scores = np.array([normalised(game, final_return(r, total)) for r in runs[game]])
        found.append(scores[np.isfinite(scores)])
    return found


def scores_over_time(
    runs: Mapping[str, list[Run]], games: list[str], grid: np.ndarray
) -> list[np.ndarray]:
    """Normalised training returns [S, F] of each game; 0 (random play) before an episode ended."""
    found = []
    for game in games:
        returns = np.stack([at(run, RETURN, grid) for run in runs[game]])
        found.append(np.nan_to_num(np.vectorize(normalised)(game, returns), nan=0.0))
    return found
