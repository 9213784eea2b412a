"""Published agents on Atari, beside which runs are put: scripts/published and its sources."""

import csv
import difflib
import importlib.resources
import math
from collections.abc import Iterable, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actors.environments.atari_games import BY_NAME
from configs.load import ConfigError
from scripts.report.figures import LINE_OF_TEXT, label_levels
from scripts.report.runs import Run

_COLUMNS = ("source", "agent", "game", "mframes", "score", "sd", "seeds", "sticky", "kind")
_MILLION = 1e6
# Actor-critics, as this project's agents are, then those that were published for nearly all games.
_FIRST_DRAWN = (
    *("RLlib IMPALA", "RLlib A2C"),
    *("Rainbow (CNN torso)", "IQN (CNN torso)", "DQN (CNN torso)"),
)
_MARKERS = "osD^x"
_MOST_DRAWN = len(_MARKERS)
_POINTS = 7  # of the font that names them
_SLACK = 1.005  # of a run's end: its last line stands a few frames before or after it
_FARTHEST = 2.0  # times as many frames, or as few, at which a score still stands beside another


class Published(NamedTuple):
    """Scores of a published agent in one game."""

    source: str
    agent: str
    game: str
    sticky: float  # probability of sticky actions
    kind: str  # which episodes the scores are of
    frames: np.ndarray  # [N], increasing
    scores: np.ndarray  # [N], raw
    deviations: np.ndarray  # [N], NaN where unknown
    seeds: np.ndarray  # [N]

    @property
    def label(self) -> str:
        """The agent with where and how its scores came about."""
        return f"{self.agent}, {self.source}, {sticky_text(self.sticky)}"

    def nearest(self, frames: int) -> int | None:
        """The index of the point nearest to `frames`; None if it is twice as far, or half."""
        ratios = np.abs(np.log(self.frames / frames))
        index = int(np.argmin(ratios))
        return index if ratios[index] <= math.log(_FARTHEST) else None


def read_published(path: str | None) -> list[Published]:
    """Reads scores of published agents.

    Args:
        path: a CSV file with the columns of scripts/published/published_curves.csv; None: that one.

    Raises:
        ConfigError: the file cannot be read, or a line of it cannot be used.
    """
    shipped = importlib.resources.files("scripts").joinpath("published/published_curves.csv")
    file: Traversable = shipped if path is None else Path(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: no CSV file in UTF-8") from None
    reader = csv.DictReader(lines)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ConfigError(f"{file}, line {reader.line_num}: {error}") from None
    absent = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if absent:
        raise ConfigError(f"{file}: column {absent[0]} is missing; it needs {', '.join(_COLUMNS)}")
    points: dict[tuple, dict[float, tuple[float, ...]]] = {}
    for line, row in enumerate(rows, start=2):
        try:
            key, frames, point = _point(row)
            if frames in points.setdefault(key, {}):
                raise ValueError(f"{key[1]} has a score in {key[2]} at {row['mframes']}M already")
        except ValueError as error:
            raise ConfigError(f"{file}, line {line}: {error}") from None
        points[key][frames] = point
    return [_published(key, found) for key, found in points.items()]


def _point(row: dict[str, str]) -> tuple[tuple, float, tuple[float, ...]]:
    """Whose score a line holds, at how many frames, and the score with deviation and seeds.

    Raises:
        ValueError: it says what is wrong.
    """
    if None in row or None in row.values():
        raise ValueError(f"has not {len(_COLUMNS)} columns; texts with commas need quotes")
    game = row["game"]
    if game not in BY_NAME:
        nearest = difflib.get_close_matches(game, BY_NAME, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else "`bmg games` lists them"
        raise ValueError(f"unknown game {game!r}; {hint}")
    frames, score = _number(row, "mframes") * _MILLION, _number(row, "score")
    if frames <= 0:
        raise ValueError(f"mframes={row['mframes']}: must be greater than 0")
    sticky, seeds = _number(row, "sticky"), _number(row, "seeds")
    deviation = _number(row, "sd") if row["sd"] else math.nan
    key = row["source"], row["agent"], game, sticky, row["kind"]
    return key, frames, (score, deviation, seeds)


def _number(row: dict[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name}={row[name]}: must be a number")
    return value


def _published(key: tuple, points: dict[float, tuple[float, ...]]) -> Published:
    source, agent, game, sticky, kind = key
    frames = sorted(points)
    scores, deviations, seeds = np.array([points[f] for f in frames]).T
    return Published(
        source, agent, game, sticky, kind, np.array(frames), scores, deviations, seeds.astype(int)
    )


def sticky_text(sticky: float) -> str:
    """What a probability of sticky actions is called."""
    return f"sticky actions {sticky:g}" if sticky else "no sticky actions"


def of_game(published: Iterable[Published], runs: Sequence[Run]) -> list[Published]:
    """Those in the game that some runs are of; none where it is not Atari's."""
    if runs[0].suite != "atari":
        return []
    return [entry for entry in published if entry.game == runs[0].game]


def drawn(published: Iterable[Published], runs: Sequence[Run]) -> list[Published]:
    """Curves that are drawn beside runs of one game, cut off where the longest of those ends.

    At most five, of those that have two points by then, or of a short run one: first IMPALA, A2C,
    Rainbow, IQN and DQN, then what else there is in the file's order. The best at the end comes
    first.
    """
    end = _SLACK * max(run.end for run in runs)
    found = []
    for entry in of_game(published, runs):
        count = int(np.searchsorted(entry.frames, end, side="right"))
        if count:
            found.append(Published(*entry[:5], *(values[:count] for values in entry[5:])))
    ranks = {agent: rank for rank, agent in enumerate(_FIRST_DRAWN)}
    found = [entry for entry in found if len(entry.frames) > 1] or found
    found.sort(key=lambda entry: ranks.get(entry.agent, len(ranks)))
    return sorted(found[:_MOST_DRAWN], key=lambda entry: -entry.scores[-1])


def draw_published(
    figure: Any, axes: Any, curves: Sequence[Published], runs: Sequence[Run]
) -> None:
    """Draws published curves, thinner and paler than a run's, and names them below the figure.

    They do not stretch the axes, else a short run would be a flat line: where they end beyond the
    runs' range, their scores stand at its edge.

    Args:
        figure: of constrained layout, with room of `legend_height`.
        axes: of returns against frames, with the runs and their legend.
        curves: as `drawn` gives them; none leaves the figure as it is.
        runs: beside which they are drawn.
    """
    if not curves:
        return
    handles = []
    of_runs = axes.get_ylim() if np.isfinite(axes.dataLim.get_points()).all() else None
    for index, entry in enumerate(curves):
        handles += axes.plot(
            *(entry.frames, entry.scores),
            **{"color": "0.55", "linestyle": (0, (4, 2)), "linewidth": 0.8, "zorder": 1.5},
            **{"marker": _MARKERS[index], "markersize": 3.5, "markerfacecolor": "white"},
            **{"markeredgewidth": 0.7},
        )
    figure.legend(
        *(handles, [entry.label for entry in curves]),
        **{"loc": "outside lower center", "fontsize": _POINTS, "labelcolor": "0.3"},
        **{"title": _caption(curves, runs), "title_fontsize": _POINTS},
        **{"frameon": False, "handlelength": 3.5},
    )
    if of_runs is not None:
        axes.set_ylim(of_runs)
    label_levels(axes, [(_ending(entry), float(entry.scores[-1])) for entry in curves])


def _ending(entry: Published) -> str:
    return f"{entry.agent}: {entry.scores[-1]:,.4g}"


def legend_height(curves: Sequence[Published]) -> float:
    """Inches that the names of published curves take."""
    return LINE_OF_TEXT * (len(curves) + 1.5) if curves else 0.0


def _caption(curves: Sequence[Published], runs: Sequence[Run]) -> str:
    """Whether what is drawn together was played by one protocol."""
    ours = sorted({run.sticky_actions for run in runs})
    if {entry.sticky for entry in curves} == set(ours):
        return "published agents"
    these = " and ".join(map(sticky_text, ours))
    return f"published agents; protocols are mixed: these runs have {these}"
