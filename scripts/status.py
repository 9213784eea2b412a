"""`bmg status`: how runs stand, from their folders alone."""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.load import ConfigError
from learner.reading import METRICS, SUMMARY, newest_metrics, printable, read_summary
from learner.run_folder import CONFIGURATION, is_locked
from scripts.display import clock, judgements, number, seconds_left

_log = logging.getLogger(__name__)
_WIDE = 10_000  # characters, where no terminal is: one line for each run, whatever it says
_COLUMNS = ("run", "status", "%", "frames", "return", "frames/s", "left", "wrote", "host", "reason")
_RIGHT = ("%", "frames", "return", "frames/s", "left", "wrote")


class RunStatus(NamedTuple):
    """How a run stands."""

    path: Path
    status: str  # of its summary; `dead` where that says running and nobody trains; `starting`
    metrics: dict[str, Any]  # the newest line
    total_frames: int | None
    seconds_left: float | None  # None: not running, or not known yet
    seconds_silent: float | None  # since it last wrote
    host: str
    reason: str  # why it has failed, or is called dead


def status(folders: Sequence[str]) -> int:
    """Prints a line for each run in the folders and below them.

    Raises:
        ConfigError: a folder holds none.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        runs = list(find_runs(Path(folder)))
        if not runs:
            raise ConfigError(f"{folder} holds no run (no {CONFIGURATION}); give a run folder")
        found |= dict.fromkeys(runs)
    table = Table.grid(padding=(0, 2))
    for name in _COLUMNS:
        table.add_column(justify="right" if name in _RIGHT else "left", no_wrap=name != "reason")
    table.add_row(*_COLUMNS)
    for path in found:
        table.add_row(*map(Text, _row(status_of(path))))
    width = None if sys.stdout.isatty() else _WIDE
    Console(width=width, highlight=False).print(table)
    return 0


def find_runs(folder: Path) -> Iterator[Path]:
    """Run folders among a folder and those below it, in the order of their names."""
    if (folder / CONFIGURATION).is_file() or (folder / SUMMARY).is_file():
        yield folder
        return
    try:
        below = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError:  # no folder, or one that may not be read
        return
    for name in below:
        if not name.startswith("."):
            yield from find_runs(folder / name)


def status_of(path: Path) -> RunStatus:
    """How a run stands; what of its folder cannot be read is named in a warning."""
    summary, faults = read_summary(path)
    for fault in faults:
        _log.warning("bmg: %s", fault)
    lines = newest_metrics(path)
    metrics = lines[-1] if lines else summary
    total, said = summary.get("total_frames"), summary.get("status", "")
    origin, reason = _origin(summary), summary.get("reason", "")
    silent = _seconds_silent(path)
    if not said and faults:
        said, reason = "unreadable", f"its {SUMMARY} is damaged"
    elif said in ("", "running"):
        said, reason = _alive(path, said or "starting", origin)
    left = seconds_left(lines, total) if said == "running" and total else None
    return RunStatus(path, said, metrics, total, left, silent, origin.host, reason)


class _Origin(NamedTuple):
    """Who has trained last, as far as the summary says; those of older versions do not."""

    host: str
    process: int | None


def _origin(summary: dict[str, Any]) -> _Origin:
    origin = summary.get("provenance")
    if not isinstance(origin, dict):
        return _Origin("", None)
    host, process = origin.get("host"), origin.get("process")
    return _Origin(
        host if isinstance(host, str) else "", process if isinstance(process, int) else None
    )


def _alive(path: Path, said: str, origin: _Origin) -> tuple[str, str]:
    """The status of a run that has not said how it ended, and why it is that."""
    alive, here = is_locked(path), origin.host in ("", socket.gethostname())
    if not here and not alive:
        return said, f"if it is alive cannot be seen from here: ask {origin.host}"
    if alive is None and origin.process is not None:  # of a file system that knows no locks
        alive = psutil.pid_exists(origin.process)
    if alive is None:
        return said, "if it is alive cannot be seen: its lock cannot be read"
    return (said, "") if alive else ("dead", "no process trains into it; --resume goes on")


def _seconds_silent(path: Path) -> float | None:
    times = []
    for name in (METRICS, SUMMARY):
        try:
            times.append((path / name).stat().st_mtime)
        except OSError:
            continue
    return max(0.0, time.time() - max(times)) if times else None


def _row(run: RunStatus) -> list[str]:
    metrics, frames = run.metrics, run.metrics.get("frames")
    share = (
        f"{100 * min(1.0, frames / run.total_frames):.0f}" if frames and run.total_frames else "-"
    )
    success = metrics.get("episode_return")
    if success is None:
        success = metrics.get("reward_per_step")
    judged = [value for _, value in judgements(metrics)]
    running = run.status == "running"
    return [
        printable(str(run.path)),
        run.status,
        share,
        "-" if frames is None else f"{frames:,}",
        judged[-1] if judged else number(success),
        number(metrics.get("frames_per_second") if running else None, 0),
        clock(run.seconds_left),
        f"{clock(run.seconds_silent)} ago",
        run.host or "-",
        run.reason,
    ]
