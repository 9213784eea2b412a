"""Reading run folders: what `bmg report` knows of a run."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.hyperparameters import HYPERPARAMETERS
from configs.load import ConfigError, completed, flat, read_file
from configs.schema import operational_keys
from learner.reading import (
    Unreadable,
    is_count,
    is_number,
    printable,
    read_evaluation,
    read_metrics,
    read_summary,
)
from learner.run_folder import SEEDS

_CURVES = ("metrics.jsonl", SEEDS)  # of which a run folder has one at least
_MOST_LINES = 2_000  # of a run's metrics; a figure shows no more, and a sweep has 171 long runs
# Of a configuration, what reports calculate with; each may also be null.
_COUNTS = (
    *("seed", "total_frames", "learner.schedule_frames", "evaluation.every_frames"),
    *("env.swap_period", "meta.inner_steps", "meta.bootstrap_steps", "learner.batch_size"),
)
_MOST_OF_PLUGINS = 12  # hyper-parameters, of which each is a panel of a figure
_LONGEST_NAME = 100  # characters; a figure's legend and a file's name have no room for more
# What may differ between runs that are averaged, as if they were seeds of one: where they ran, what
# they wrote, and how far they went, which the report says.
_NOT_OF_THE_SETTING = ("seed", "total_frames", *operational_keys())


class Run(NamedTuple):
    """What a run folder says."""

    path: Path
    metrics: list[dict[str, Any]]  # evenly chosen lines, the last one among them
    summary: dict[str, Any]
    evaluations: list[dict[str, Any]]
    config: dict[str, Any]  # flat, completed; today's schema may not know all keys
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
        return shown(self.summary.get("name", self.path.name))

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return shown(self.path.name)

    @property
    def seed(self) -> Any:
        """None where no summary was written."""
        return self.summary.get("seed", self.config.get("seed"))

    @property
    def frames(self) -> int:
        """How far it got."""
        return self.metrics[-1]["frames"]

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
    def finished(self) -> bool:
        """Whether it got there."""
        return self.summary.get("status") == "finished"

    def setting(self, *, with_game: bool) -> str:
        """Runs of the same may be averaged: the configuration but for its seed."""
        left_out = _NOT_OF_THE_SETTING if with_game else (*_NOT_OF_THE_SETTING, "env.game")
        kept = without(self.config, left_out)
        return json.dumps(kept or str(self.path), sort_keys=True, default=str)


def without(config: dict[str, Any], left_out: Iterable[str]) -> dict[str, Any]:
    """A flat configuration without some keys and groups."""
    names = tuple(left_out)
    groups = tuple(f"{name}." for name in names)
    return {k: v for k, v in config.items() if k not in names and not k.startswith(groups)}


def learned_in(runs: Iterable[Run]) -> list[str]:
    """Hyper-parameters that runs have learned or replayed; of those of their plugins a dozen."""
    runs = list(runs)
    logged = {key for run in runs for key in run.metrics[-1]}
    of_runs = [run.config.get("meta.learned") for run in runs]
    named = dict.fromkeys(
        str(name) for names in of_runs if isinstance(names, list) for name in names
    )
    theirs = [n for n in named if n.isidentifier() and shown(n) == n and n not in HYPERPARAMETERS]
    there = [name for name in HYPERPARAMETERS if f"meta/{name}" in logged]
    return there + [n for n in theirs if f"meta/{n}" in logged][:_MOST_OF_PLUGINS]


def shown(value: Any) -> str:
    """A text of a run folder as figures and tables show it."""
    return printable(str(value), _LONGEST_NAME)


def read_run(path: Path) -> Run:
    """Reads a run folder.

    Raises:
        ConfigError: it holds no metrics, or its configuration is damaged.
    """
    if not (path / "metrics.jsonl").is_file():
        raise ConfigError(f"{path} holds no run (no metrics.jsonl); give run folders")
    metrics, faults = read_metrics(path, _MOST_LINES)
    if not metrics or not metrics[-1]["frames"]:
        reason = f"{path / 'metrics.jsonl'} is empty: the run has logged nothing yet"
        raise ConfigError(faults[0] if faults else reason)
    summary, more = read_summary(path)
    faults += more
    evaluations = []
    for file in sorted(path.glob("evaluation*.json")):
        try:
            evaluations.append(read_evaluation(file))
        except FileNotFoundError:  # a link that leads nowhere
            continue
        except Unreadable as error:
            faults.append(str(error))
    config, more = read_config(path) if (path / "config.yaml").exists() else ({}, [])
    return Run(path, metrics, summary, evaluations, config, (*faults, *more))


def read_config(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A run's configuration, flat and completed, and what of it had to be left out.

    Raises:
        ConfigError: it is not there, or damaged.
    """
    file = path / "config.yaml"
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


def find_runs(paths: list[Path]) -> list[Path]:
    """The run folders that are given, or lie in folders that are given.

    Raises:
        ConfigError: there is none in one of them.
    """
    found: list[Path] = []
    for path in paths:
        if any(os.path.isfile(path / name) for name in _CURVES):
            found.append(path)
            continue
        names = _CURVES if os.path.isdir(path) else ()
        inside = sorted(file.parent for name in names for file in path.rglob(name))
        # The copy of a schedule that a run replays is part of that run.
        inside = [run for run in inside if run.name != "hyperparameters_from"]
        if not inside:
            raise ConfigError(f"{path} holds no run (no metrics.jsonl); give run folders")
        found += inside
    return list(dict.fromkeys(found))


def planned_trials(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """Run folders of the trials that sweeps in or just above these folders should have.

    Returns:
        The folders, and which plans cannot be read.
    """
    files = [file for path in paths for file in path.rglob("sweep.yaml")]
    files += [path.parent / "sweep.yaml" for path in paths]
    planned: list[Path] = []
    faults: list[str] = []
    for file in {file.absolute() for file in files if file.is_file()}:
        try:
            trials = read_file(str(file), "sweep").get("trials") or {}
        except ConfigError as error:
            faults.append(str(error))
            continue
        if isinstance(trials, dict):
            planned += [file.parent / str(name) for name in trials]
        else:
            faults.append(f"{file} names no trials: it is damaged")
    return planned, faults
