# PYTHON_ARGCOMPLETE_OK
"""The `bmg` command. Sub-commands import their heavy packages when they run, not before."""

import os
import signal
import sys

from scripts import signals

if __name__ == "__main__" or sys.argv[0].endswith("bmg"):
    signals.leave_at_once()  # also during these imports

import argparse
import importlib.metadata
import logging
import warnings
from pathlib import Path
from typing import NoReturn

from learner.reading import printable
from scripts.command_line import parse
from scripts.output import Output, OutputLost, complain

_LONGEST_REASON = 2_000  # of a failed run, with its folder, or the names of many failed trials
_OURS = ("agents", "actors", "learner", "configs", "scripts", "bmg")


def _prints_its_result(options: argparse.Namespace) -> bool:
    """Whether what a command prints is all that comes of it; others leave it in a folder."""
    return options.command in ("bench", "configs", "games", "status") or getattr(
        options, "dry_run", False
    )


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "train":
        from scripts.train import train

        return train(
            options.config,
            options.overrides,
            options.run_dir,
            options.resume,
            options.dry_run,
            options.profile,
        )
    if options.command == "evaluate":
        from scripts.evaluate import evaluate

        return evaluate(
            options.run_dir,
            options.episodes,
            options.seed,
            options.video,
            options.policy,
            options.protocol,
            options.snapshots,
        )
    if options.command == "bench":
        from scripts.bench.bench import bench

        return bench(
            options.config, options.overrides, options.seconds, options.budget, options.stages
        )
    if options.command == "sweep":
        from scripts.sweep.sweep import sweep

        return sweep(
            options.sweep, options.overrides, options.results, options.resume, options.dry_run
        )
    if options.command == "report":
        from configs.load import frames_of
        from scripts.report.finding import folders_with_curves

        frames = None if options.frames is None else frames_of("--frames", options.frames)
        folders_with_curves([Path(folder) for folder in options.run_dirs])  # or it is refused
        from scripts.report.report import report  # which imports all that draws

        return report(options.run_dirs, options.out, options.mix, frames, options.published)
    if options.command == "configs":
        from scripts.configs import configs

        return configs(options.config, options.overrides)
    if options.command == "status":
        from scripts.status import status

        return status(options.folders)
    from scripts.games import games

    return games()


class _CurrentStderr(logging.StreamHandler):
    """Writes to whatever `sys.stderr` is by then: the live display stands in for it."""

    @property
    def stream(self):
        return sys.stderr

    @stream.setter
    def stream(self, value):
        del value

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line, len(line)) for line in super().format(record).split("\n"))


def _where(error: OSError, options: argparse.Namespace) -> str:
    """What the file system said, and of which folder."""
    folders = (getattr(options, name, None) for name in ("out", "results", "run_dir", "run_dirs"))
    named = error.filename or next(filter(None, folders), None) or "the current folder"
    shown = named if isinstance(named, str) else ", ".join(named)
    return f"{error.strerror}: {shown}"


def _foreign_owner(error: ImportError) -> str | None:
    """Who else owns one of our top-level names, when an import of ours fails."""
    name = (error.name or "").split(".")[0]
    owners = importlib.metadata.packages_distributions()
    for package in _OURS:
        others = [owner for owner in owners.get(package, []) if owner != "bmg"]
        if others:
            return f"package {package!r} also belongs to {', '.join(others)} (failed on {name!r})"
    return None


def _failed(error: Exception, options: argparse.Namespace) -> int:
    """Tells why a command has failed, where a user can do something about it; the exit status.

    Raises:
        Exception: any other error, as it came.
    """
    # Only here: what is raised has imported them, and `bmg games` need not.
    from configs.load import ConfigError, ConfigErrors
    from learner.reading import Unreadable
    from learner.run_folder import STORAGE_FAULTS
    from scripts.check import RunFailed, out_of_memory

    if isinstance(error, ConfigError):
        for fault in error.faults if isinstance(error, ConfigErrors) else [str(error)]:
            complain(fault)
        return 2
    if isinstance(error, RunFailed):
        told = f"the run failed: {error}"
    elif isinstance(error, Unreadable):
        told = f"{options.command} failed: {error}"
    elif isinstance(error, (MemoryError, RuntimeError)) and out_of_memory(error):
        told = f"{options.command} failed: {error or 'no memory is left'}"
    elif isinstance(error, OSError) and (error.errno in STORAGE_FAULTS or error.filename):
        told = f"{options.command} failed: {_where(error, options)}"
    else:
        raise error
    complain(told, _LONGEST_REASON)
    return 1


def main() -> None:
    """Entry point of `bmg`: runs a command and ends this process."""
    try:
        command()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        for number in signals.ending():  # what is left is to end
            signal.signal(number, lambda number, frame: os._exit(status))
        if not isinstance(end.code, int | None):  # a library's last word
            print(end.code, file=sys.stderr)
        signals.end(status)


def command() -> NoReturn:
    """Runs what the command line says.

    Raises:
        SystemExit: with the exit status: 0, 1 failed, 2 bad usage, 128 + n after a signal n.
    """
    # Ray and the video writer fork only to execute another program at once, which is safe beside
    # JAX's threads.
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_CurrentStderr()])
    signals.leave_at_once()
    output = Output()
    options = parse()
    try:
        try:
            if _prints_its_result(options):
                output.need()
            status = _dispatch(options)
            sys.stdout.flush()  # what is needed is known to be written, or is not
        except OutputLost as error:
            if error.reader_has_gone:  # with all that it wanted, as `bmg games | head`
                status = 0
            else:
                complain(f"{options.command}: standard output cannot be written: {error}")
                status = 1
        except Exception as error:
            status = _failed(error, options)
    except KeyboardInterrupt as interrupted:
        status = signals.exit_status(interrupted)
    except ImportError as error:
        owner = _foreign_owner(error)
        if owner is None:
            raise
        print(f"bmg: {owner}: install bmg into an environment of its own", file=sys.stderr)
        status = 1
    raise SystemExit(status)


if __name__ == "__main__":
    main()
