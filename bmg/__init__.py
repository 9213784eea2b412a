"""BMG in Python: training, reading run folders, acting with what was learned. See docs/python.md.

JAX and Ray are imported by the functions that need them.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from configs import load as _load
from configs.load import ConfigError
from configs.schema import Config
from scripts.check import RunFailed
from scripts.signals import ending

if TYPE_CHECKING:
    from bmg.policy import Policy

__all__ = ["ConfigError", "Run", "RunFailed", "load_policy", "load_run", "report", "train"]


class Run(NamedTuple):
    """What a run folder holds. Frames are emulator frames; of several seeds, those of each."""

    path: Path
    config: Config
    metrics: dict[str, np.ndarray]  # [N] each: a number of every log line, NaN where it has none
    summary: dict[str, Any]  # as summary.json: status, protocol, versions, the last metrics
    seeds: dict[str, np.ndarray]  # as seeds.npz: curves [S, N] of a run of several seeds; else {}

    def __repr__(self) -> str:
        """What it is, in a line: its arrays would fill pages of a notebook."""
        status, frames = (self.summary.get(key) for key in ("status", "frames"))
        lines = len(self.metrics.get("frames", ()))
        return f"Run({str(self.path)!r}: {status}, {frames} frames, {lines} lines of metrics)"


def train(
    config: str | os.PathLike[str],
    run_dir: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> Run:
    """Trains in this process, as `bmg train` does, and reads what came of it.

    SIGINT, SIGTERM and SIGHUP end the training with a checkpoint, so this needs the main thread;
    afterwards they do what they did before. A run that is there already goes on where it stopped.

    Args:
        config: a name under configs/ (`catch/bmg`) or the path of a YAML file.
        run_dir: where the run goes; None: `runs/NAME-DATE-TIME`.
        overrides: values of keys: `seed=3`, a group as `env={"game": "breakout"}`, or dotted as
            `**{"env.game": "breakout"}`.

    Returns:
        The run as it stands; `run.summary["status"]` says whether it was interrupted.

    Raises:
        ConfigError: one line for each fault; nothing was created or started.
        RunFailed: with the reason; the run folder says `failed`.
    """
    from scripts import plugins
    from scripts.folders import new_folder
    from scripts.train import train as run_training

    config = os.fspath(config)
    words = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    if run_dir is None:
        name = _load.load(config, words, plugins.import_all).name
        with new_folder(name) as path, _signals_kept():
            run_training(config, words, str(path), False)
        return load_run(path)
    path = Path(run_dir)
    with _signals_kept():
        run_training(config, words, str(path), (path / "config.yaml").is_file())
    return load_run(path)


@contextmanager
def _signals_kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ending()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def load_run(run_dir: str | os.PathLike[str]) -> Run:
    """Reads a run folder, of a run that goes on as well.

    Raises:
        ConfigError: it holds no run, or its configuration or curves cannot be read; one with
            plugins needs them to be imported before.
    """
    from learner.reading import read_metrics, read_summary
    from learner.run_folder import SEEDS, configuration_of
    from scripts.folders import require_run
    from scripts.report.runs import columns, read_curves

    path = Path(run_dir)
    require_run(path)
    config = _load.load(str(configuration_of(path)))
    lines, _ = read_metrics(path)
    seeds: dict[str, np.ndarray] = {}
    if (path / SEEDS).is_file():
        seeds = read_curves(path)
    return Run(path, config, columns(lines), read_summary(path)[0], seeds)


def load_policy(
    run_dir: str | os.PathLike[str], checkpoint: int | None = None, seed: int | None = None
) -> Policy:
    """Loads the policy and value that a run has learned.

    Args:
        run_dir: a run folder.
        checkpoint: learner updates of one of its checkpoints; None: the newest good one.
        seed: of a run of several seeds; None: the first.

    Raises:
        ConfigError: there is no such run, checkpoint or seed, or nothing in it acts by a policy.
        RunFailed: its checkpoints are damaged.
    """
    from bmg.policy import load

    return load(Path(run_dir), checkpoint, seed)


def report(
    *run_dirs: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    mix: Sequence[str] = (),
    frames: int | None = None,
) -> Path:
    """Draws figures and tables, as `bmg report` does.

    Args:
        run_dirs: run folders, or folders of them.
        out: where to write; None: the folder, or `report` for several.
        mix: what protocols of runs that are compared may differ in.
        frames: where runs of any length stand side by side; None: the end of the shortest.

    Returns:
        Its page, index.html.

    Raises:
        ConfigError: there is no run.
    """
    from scripts.report.report import report as draw

    paths = [str(Path(path)) for path in run_dirs]
    draw(paths, None if out is None else str(Path(out)), list(mix), frames)
    folder = Path(out) if out is not None else Path(paths[0] if len(paths) == 1 else "report")
    return folder / "index.html"
