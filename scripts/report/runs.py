"""Reading run folders: what `bmg report` knows of a run.

Shapes: `S` seeds, `N` points, `M` lines of metrics.jsonl.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.hyperparameters import HYPERPARAMETERS
from configs.load import ConfigError, completed, flat, read_file
from learner.reading import (
    METRICS,
    Unreadable,
    is_count,
    is_number,
    printable,
    read_evaluation,
    read_evaluation_of_tasks,
    read_metrics,
    read_summary,
)
from learner.run_folder import SEEDS

_MOST_LINES = 2_000  # of a run's metrics; a figure shows no more, and a sweep has 171 long runs
# Of a configuration, what reports calculate with; each may also be null.
_COUNTS = (
    *("seed", "total_frames", "learner.schedule_frames", "evaluation.every_frames"),
    *("env.swap_period", "meta.inner_steps", "meta.bootstrap_steps", "learner.batch_size"),
)
_MOST_OF_PLUGINS = 12  # hyper-parameters, of which each is a panel of a figure
_LONGEST_NAME = 100  # characters; a figure's legend and a file's name have no room for more
_MOST_FRAMES = 2**53  # what a double counts exactly
_LARGEST = 1e30  # reward of a point
# Curves of seeds.npz beside those of groups of names: the reward of a point, the mean return of the
# episodes that ended in it, and of Q(lambda) that learns its epsilon how often actions changed.
REWARD, RETURN, CHANGES = "reward", "episode_return", "greedy_changes"
META, VALIDATION = "meta/", "validation/"  # learned hyper-parameters; how new tasks are known


class Run(NamedTuple):
    """What a run folder says.

    A point of `metrics.jsonl` is a line, which tells of the one seed's last 100 episodes; a point
    of `seeds.npz` holds what happened since the point before it.
    """

    path: Path
    config: dict[str, Any]  # flat, completed; today's schema may not know all keys
    summary: dict[str, Any]
    seeds: list[Any]  # [S]; None where nothing says which
    frames: np.ndarray  # [N] of each seed at the end of each point
    curves: dict[str, np.ndarray]  # [S, N] by name; NaN where unknown
    seconds: np.ndarray  # [N] of training, of all seeds together; NaN where unknown
    evaluations: list[dict[str, Any]]
    together: bool  # of several seeds in one program: it is of a `seeds.npz`
    logged: dict[str, np.ndarray]  # [M] numbers of the lines of metrics.jsonl; NaN where unknown
    faults: tuple[str, ...] = ()  # what of its files cannot be read, and is left out

    @property
    def game(self) -> str:
        """What it played."""
        return shown(self.protocol.get("game", self.config.get("env.game")))

    @property
    def suite(self) -> str:
        """Where the game comes from."""
        return shown(self.protocol.get("suite", self.config.get("env.suite")))

    @property
    def of_tasks(self) -> bool:
        """Whether it is of few-shot learning, whose frames are tasks."""
        return self.config.get("env.suite") == "few_shot"

    @property
    def sticky_actions(self) -> float:
        """Probability of sticky actions."""
        return float(self.protocol.get("sticky_actions", self.config.get("env.sticky_actions", 0)))

    @property
    def protocol(self) -> dict[str, Any]:
        """How its scores came about."""
        return self.summary.get("protocol", {})

    @property
    def name(self) -> str:
        """Of its configuration, or of its variant in a sweep."""
        return shown(self.summary.get("name", self.config.get("name", self.path.name)))

    @property
    def algorithm(self) -> str:
        """What learned."""
        return shown(self.summary.get("algorithm", self.config.get("agent.algorithm")))

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return shown(self.path.name)

    @property
    def seed(self) -> Any:
        """The first, or only one."""
        return self.seeds[0]

    @property
    def end(self) -> int:
        """Frames that it got to."""
        return int(self.frames[-1])

    @property
    def total_frames(self) -> int:
        """How far it should get."""
        return int(self.summary.get("total_frames") or self.config.get("total_frames") or 0)

    @property
    def schedule_frames(self) -> int | None:
        """Frames in which its learning rate falls to 0; None if it is constant or unknown."""
        if self.config.get("learner.learning_rate_schedule") != "linear":
            return None
        return int(self.config.get("learner.schedule_frames") or self.total_frames)

    @property
    def status(self) -> str:
        """What its summary says."""
        return self.summary.get("status", "unfinished")

    @property
    def finished(self) -> bool:
        """Whether it got there."""
        return self.status == "finished"

    def curve(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Frames and values [N] of a metric of its first seed, where it was known."""
        values = self.curves.get(key, np.full((1, len(self.frames)), np.nan))[0]
        known = ~np.isnan(values)
        return self.frames[known], values[known]

    def last(self, key: str) -> float | None:
        """A metric of its first seed at its end; None if it was not known then."""
        value = self.curves.get(key, np.full((1, 1), np.nan))[0, -1]
        return None if np.isnan(value) else float(value)

    def is_copy_of(self, other: "Run") -> bool:
        """Whether it tells the same, as a copied folder does, or a run that is repeatable."""
        ours, theirs = (
            {name: values for name, values in run.curves.items() if _is_curve(name)}
            for run in (self, other)
        )
        return (
            np.array_equal(self.frames, other.frames)
            and ours.keys() == theirs.keys()
            and all(np.array_equal(ours[n], theirs[n], equal_nan=True) for n in ours)
        )


def learned_in(runs: Iterable[Run]) -> list[str]:
    """Hyper-parameters that runs have learned or replayed; of those of their plugins a dozen."""
    runs = list(runs)
    logged = {key for run in runs for key in run.curves}
    of_runs = [run.config.get("meta.learned") for run in runs]
    named = dict.fromkeys(
        str(name) for names in of_runs if isinstance(names, list) for name in names
    )
    theirs = [n for n in named if n.isidentifier() and shown(n) == n and n not in HYPERPARAMETERS]
    there = [name for name in HYPERPARAMETERS if META + name in logged]
    return there + [n for n in theirs if META + n in logged][:_MOST_OF_PLUGINS]


def shown(value: Any) -> str:
    """A text of a run folder as figures and tables show it."""
    return printable(str(value), _LONGEST_NAME)


def read_run(path: Path) -> Run:
    """Reads a run folder, of one seed or of several.

    Raises:
        ConfigError: it holds no curves yet, or they or its configuration are damaged.
    """
    together = (path / SEEDS).is_file()
    if not together and not (path / METRICS).is_file():
        raise ConfigError(f"{path} holds no run (no metrics.jsonl); give run folders")
    config, faults = _config(path, required=together)
    lines, unread = read_metrics(path, _MOST_LINES)
    logged = columns(lines)
    summary, more = read_summary(path)
    if together:
        of_tasks = config.get("env.suite") == "few_shot"
        seeds, frames, curves = _curves_of_seeds(path, of_tasks)
        seconds = _clock(lines, frames)
    elif lines and lines[-1]["frames"]:
        of_tasks, seeds = False, [summary.get("seed", config.get("seed"))]
        frames = np.array([line["frames"] for line in lines])
        curves = {name: values[None] for name, values in logged.items()}
        seconds = curves.get("seconds", np.full((1, len(lines)), np.nan))[0]
    else:
        reason = f"{path / METRICS} is empty: the run has logged nothing yet"
        raise ConfigError(unread[0] if unread else reason)
    evaluations, unusable = _evaluations(path, of_tasks)
    every = (*unread, *more, *unusable, *faults)
    return Run(
        *(path, config, summary, seeds, frames, curves, seconds, evaluations),
        *(together, logged, every),
    )


def columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Each number [N] of the lines of metrics.jsonl, NaN in lines that have none."""
    names = dict.fromkeys(name for line in lines for name, x in line.items() if is_number(x))
    values = ([line.get(name) for line in lines] for name in names)
    known = ([x if is_number(x) else np.nan for x in of_name] for of_name in values)
    return {name: np.array(of_name, float) for name, of_name in zip(names, known, strict=True)}


def _clock(lines: list[dict[str, Any]], frames: np.ndarray) -> np.ndarray:
    """Seconds of training [N] at some frames, without the compilation at its start.

    The first line's stretch is taken to last as long as the others of its length.
    """
    known = [(line["frames"], s) for line in lines if is_number(s := line.get("seconds"))]
    if not known:
        return np.full(len(frames), np.nan)
    at, seconds = np.array([(0.0, 0.0), *known], float).T
    if len(known) > 2:
        paces = np.diff(seconds)[1:] / np.maximum(np.diff(at)[1:], 1.0)
        seconds[1:] += np.median(paces) * at[1] - seconds[1]
    return np.interp(frames, at, seconds)


def _evaluations(path: Path, of_tasks: bool) -> tuple[list[dict[str, Any]], list[str]]:
    found, faults = [], []
    for file in sorted(path.glob("evaluation*.json")):
        try:
            found.append((read_evaluation_of_tasks if of_tasks else read_evaluation)(file))
        except FileNotFoundError:  # a link that leads nowhere
            continue
        except Unreadable as error:
            faults.append(str(error))
    return found, faults


def _config(path: Path, *, required: bool) -> tuple[dict[str, Any], list[str]]:
    """A run's configuration, flat and completed, and what of it had to be left out.

    Raises:
        ConfigError: it is damaged, or not there and required.
    """
    file = path / "config.yaml"
    if not required and not file.exists():
        return {}, []
    try:
        known = completed({})
        content = flat(read_file(str(file), "configuration"))
    except ConfigError:
        raise ConfigError(f"{file} cannot be read: it is missing, damaged or empty") from None
    faults = []
    for key, value in content.items():
        count = key in _COUNTS and value is not None
        sticky = key == "env.sticky_actions"
        if (count and not is_count(value)) or (sticky and not is_number(value)):
            faults.append(printable(f"{file}: {key} is no number", 1_000))
        else:
            known[key] = value
    return known, faults


def read_curves(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a run folder's seeds.npz, as they stand there.

    Raises:
        ConfigError: it is missing or damaged.
    """
    file = path / SEEDS
    try:
        # A stream of our own: np.load leaves the file open when a zip is cut short.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception:  # zip, zlib and NumPy raise a dozen kinds for damaged bytes
        raise ConfigError(f"{file} cannot be read: it is damaged or empty") from None


def _curves_of_seeds(
    path: Path, of_tasks: bool
) -> tuple[list[int], np.ndarray, dict[str, np.ndarray]]:
    """Seeds [S], frames [N] and curves [S, N] of a run folder's seeds.npz.

    Raises:
        ConfigError: it is missing, damaged or empty.
    """
    arrays = read_curves(path)
    if fault := _fault(arrays, f"{VALIDATION}query_loss_after_" if of_tasks else REWARD):
        raise ConfigError(f"{path / SEEDS} {fault}")
    seeds, frames = arrays.pop("seeds"), arrays.pop("frames")
    known = {name: np.asarray(x, np.float64) for name, x in arrays.items() if _is_curve(name)}
    return seeds.tolist(), frames, {shown(name): values for name, values in known.items()}


def _is_curve(name: str) -> bool:
    return name in (REWARD, CHANGES, RETURN) or name.startswith((META, VALIDATION))


def _fault(arrays: dict[str, np.ndarray], needed: str) -> str | None:
    """What is wrong with the content of a seeds.npz, if anything is.

    Args:
        arrays: by name.
        needed: how the name of a curve begins that has to be there.
    """
    if any(name in arrays and not arrays[name].size for name in ("frames", "seeds")):
        return "is empty: the run has logged no point yet"
    for beginning in ("frames", "seeds", needed):
        if not any(name.startswith(beginning) for name in arrays):
            return f"is damaged: it lacks {beginning}"
    frames, seeds = arrays["frames"], arrays["seeds"]
    if frames.ndim != 1 or seeds.ndim != 1:
        return "is damaged: frames and seeds must have one dimension"
    shape = len(seeds), len(frames)
    for name, values in arrays.items():
        if values.dtype.kind not in ("iu" if name in ("frames", "seeds") else "iuf"):
            return f"is damaged: {name} holds no numbers"
        if _is_curve(name) and values.shape != shape:
            return f"is damaged: {name} has shape {values.shape}, not {shape} (seeds, points)"
    if frames[0] <= 0 or (frames[1:] <= frames[:-1]).any() or frames[-1] > _MOST_FRAMES:
        return "is damaged: frames do not increase"
    if len(np.unique(seeds)) < len(seeds):
        return "is damaged: a seed stands in it twice"
    # NaN compares as false.
    known = (np.abs(arrays.get(REWARD, np.zeros(1))) < _LARGEST).all()
    return None if known else "is damaged: reward is not finite"
