"""Reading run folders: what `bmg report` knows of a run."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from configs.load import ConfigError, completed, flat

SEEDS_FILE = "seeds.npz"  # of a run of several seeds in one program
_CURVES = ("metrics.jsonl", SEEDS_FILE)  # of which a run folder has one at least
_TAIL_BYTES = 65_536  # of metrics.jsonl: many lines
_MOST_LINES = 2_000  # of a run's metrics; a figure shows no more, and a sweep has 171 long runs
# What may differ between runs that are averaged, as if they were seeds of one: where they ran, what
# they wrote, and how far they went, which the report says.
_NOT_OF_THE_SETTING = (
    *("seed", "name", "total_frames", "checkpoint", "logging", "evaluation"),
    *("learner.devices", "learner.gpu_memory"),
    *("learner.processes", "learner.process", "learner.coordinator"),
    *("actors.count", "actors.threads_per_actor", "actors.device", "actors.ray_address"),
    *("actors.cpus_per_actor", "actors.memory_mb_per_actor", "actors.gpus_per_actor"),
    *("actors.max_bytes_in_flight", "actors.unroll_timeout_seconds", "actors.max_failures"),
)


class Run(NamedTuple):
    """What a run folder says."""

    path: Path
    metrics: list[dict[str, Any]]  # evenly chosen lines, the last one among them
    summary: dict[str, Any]
    evaluations: list[dict[str, Any]]
    config: dict[str, Any]  # flat, completed; today's schema may not know all keys

    @property
    def game(self) -> str:
        """What it played."""
        return str(self.protocol.get("game", self.config.get("env.game")))

    @property
    def suite(self) -> str:
        """Where the game comes from."""
        return str(self.protocol.get("suite", self.config.get("env.suite")))

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
        return str(self.summary.get("name", self.path.name))

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


def read_run(path: Path) -> Run:
    """Reads a run folder.

    Raises:
        ConfigError: it holds no metrics, or they are damaged.
    """
    if not (path / "metrics.jsonl").is_file():
        raise ConfigError(f"{path} holds no run (no metrics.jsonl); give run folders")
    metrics = metrics_of(path, _MOST_LINES)
    if not metrics:
        raise ConfigError(f"{path / 'metrics.jsonl'} is empty: the run has logged nothing yet")
    summary = _json(path / "summary.json")
    evaluations = [_json(file) for file in sorted(path.glob("evaluation*.json"))]
    return Run(path, metrics, summary, [e for e in evaluations if e], _config(path))


def metrics_of(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """Lines of a run's metrics.jsonl, at most so many; none before there are any.

    Lines that a killed process left half written are passed over.
    """
    file = path / "metrics.jsonl"
    lines = file.read_bytes().splitlines() if file.is_file() else []
    step = 1 if most is None else max(1, math.ceil(len(lines) / most))
    chosen = lines[(len(lines) - 1) % step :: step] if lines else []
    found: list[dict[str, Any]] = []
    for line in chosen:
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and "frames" in content:
            found.append(content)
    return found


def last_metrics(path: Path) -> dict[str, Any]:
    """The last whole line of a run's metrics, without reading all; empty before there is one."""
    try:
        with (path / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            return json.loads(line)
        except ValueError:  # being written, or cut by where the reading began
            continue
    return {}


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


def planned_trials(paths: list[Path]) -> list[Path]:
    """Run folders of the trials that sweeps in or just above these folders should have."""
    files = [file for path in paths for file in path.rglob("sweep.yaml")]
    files += [path.parent / "sweep.yaml" for path in paths]
    planned: list[Path] = []
    for file in {file.absolute() for file in files if file.is_file()}:
        planned += [file.parent / name for name in _yaml(file).get("trials") or {}]
    return planned


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise ConfigError(f"{file} cannot be read: it is damaged") from None
    return content if isinstance(content, dict) else {}


def _config(path: Path) -> dict[str, Any]:
    content = flat(_yaml(path / "config.yaml"))
    return completed(content) if content else content


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError):
        raise ConfigError(f"{file} cannot be read: it is damaged") from None
    return content if isinstance(content, dict) else {}
