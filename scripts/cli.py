# PYTHON_ARGCOMPLETE_OK
"""The `bmg` command. Sub-commands import their heavy packages when they run, not before."""

import os
import signal
import sys

from scripts import signals

if __name__ == "__main__" or sys.argv[0].endswith("bmg"):
    signals.leave_at_once()  # also during these imports

import argparse
import difflib
import importlib.metadata
import logging
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from learner.reading import printable
from scripts.output import Output, OutputLost

_BENCH_CONFIG = "atari/quickstart"
_LONGEST_LINE = 300  # of a refusal: a screen or two; what goes beyond is a value that was given
_LONGEST_REASON = 2_000  # of a failed run, with its folder, or the names of many failed trials
_OURS = ("agents", "actors", "learner", "configs", "scripts", "bmg")


class _Parser(argparse.ArgumentParser):
    """One readable line for bad usage, as for bad configuration."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(2)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's, with the nearest spelling, whatever the version of Python."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        told = f"{value!r}: {_nearest(value, choices)}there are {', '.join(choices)}"
        raise argparse.ArgumentError(action, told)

    def options(self, command: str) -> list[str]:
        """All options of a sub-command."""
        (commands,) = (a for a in self._actions if isinstance(a, argparse._SubParsersAction))
        return [*commands.choices[command]._option_string_actions]


def _nearest(word: str, words: Sequence[str]) -> str:
    near = difflib.get_close_matches(word[:100], words, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""


def _parser() -> _Parser:
    parser = _Parser(
        prog="bmg",
        description="Distributed actor-learner reinforcement learning: Ray actors, a JAX learner.",
        epilog="example: bmg train atari/quickstart env.game=breakout",
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("bmg"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, epilog=f"example: {example}")

    train = command(
        "train",
        "Trains an agent into a run folder.",
        "bmg train atari/quickstart env.game=breakout total_frames=1000000 --run-dir runs/b",
    )
    train.add_argument(
        "config", nargs="?", help="a name under configs/ (`bmg configs`) or the path of a YAML file"
    )
    train.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="dotted configuration keys"
    )
    train.add_argument("--run-dir", type=_path, help="default: runs/NAME-DATE-TIME")
    train.add_argument(
        "--resume",
        nargs="?",
        const="",
        type=_path_or_nothing,
        metavar="RUN_DIR",
        help="go on with that run, with its own configuration, or with CONFIG in --run-dir",
    )
    train.add_argument(
        "--dry-run",
        action="store_true",
        help="checks, prints the resolved configuration and what would start, and starts nothing",
    )

    evaluate = command(
        "evaluate",
        "Plays a run's newest good checkpoint and writes evaluation.json.",
        "bmg evaluate runs/b --episodes 20 --video b.mp4",
    )
    evaluate.add_argument("run_dir", type=_path)
    evaluate.add_argument(
        "--episodes", type=_positive, help="default: 10; of few-shot learning, tasks: 600"
    )
    evaluate.add_argument("--seed", type=_seed, default=1_000_000)
    evaluate.add_argument(
        "--video", metavar="FILE.mp4", type=_path, help="also records one episode"
    )
    evaluate.add_argument(
        "--protocol",
        choices=("training", "noops", "sticky"),
        help="as the training, 30 no-ops, or sticky actions; default: evaluation.protocol",
    )
    evaluate.add_argument(
        "--snapshots",
        action="store_true",
        help="plays what evaluation.every_frames has kept, a file for each",
    )
    evaluate.add_argument(
        "--policy",
        choices=("sample", "greedy", "random"),
        default="sample",
        help="sample from the policy (as in training), take its mode, or play at random",
    )

    bench = command(
        "bench",
        "Measures each stage and the whole, and prints JSON.",
        "bmg bench atari/quickstart env.game=breakout",
    )
    bench.add_argument("config", nargs="?", default=_BENCH_CONFIG)
    bench.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    bench.add_argument("--seconds", type=_positive, default=60, help="of the whole system's run")

    report = command(
        "report",
        "Draws learning curves and tables from run folders.",
        "bmg report runs/bmg runs/actor_critic --out figures",
    )
    report.add_argument(
        "run_dirs",
        nargs="+",
        metavar="DIR",
        type=_path,
        help="run folders, or folders of them as of a sweep",
    )
    report.add_argument("--out", type=_path, help="default: the folder, or `report` for several")
    report.add_argument(
        "--mix",
        action="append",
        default=[],
        metavar="NAME",
        help="compares runs whose protocols differ in this (sticky_actions, say); may be repeated",
    )
    report.add_argument(
        "--frames",
        metavar="N",
        help="where runs of any length stand side by side (default: the end of the shortest)",
    )
    report.add_argument(
        "--published",
        metavar="FILE",
        type=_path,
        help="scores of published agents, instead of scripts/published/published_curves.csv",
    )

    sweep = command(
        "sweep",
        "Runs a grid of trainings on a Ray cluster.",
        "bmg sweep sweeps/smoke --results results/smoke",
    )
    sweep.add_argument("sweep", help="a name under configs/sweeps/ or the path of a YAML file")
    sweep.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="of the sweep (retries, resources.cpus, variants), its grid, or all its trials",
    )
    sweep.add_argument("--results", metavar="DIR", type=_path, help="default: results/NAME")
    sweep.add_argument("--resume", action="store_true", help="runs what is not finished in DIR")
    sweep.add_argument(
        "--dry-run", action="store_true", help="lists the trials and estimates their time"
    )

    configs = command(
        "configs",
        "Lists configurations, or prints one resolved, with the source of each value.",
        "bmg configs atari/bmg env.game=breakout",
    )
    configs.add_argument("config", nargs="?", help="a name under configs/ or a YAML file")
    configs.add_argument("overrides", nargs="*", metavar="KEY=VALUE")

    status = command(
        "status",
        "Tells of running and finished runs, a line each, from their folders.",
        "bmg status runs results/smoke",
    )
    status.add_argument(
        "folders", nargs="+", metavar="DIR", type=_path, help="run folders, or folders of them"
    )

    command("games", "Lists the 57 Atari games with their scores.", "bmg games")
    return parser


def _parse() -> argparse.Namespace:
    """Parses the command line; KEY=VALUE may also stand behind options, as in `--resume seed=1`."""
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could stand here
        _complete(parser)
    options, rest = parser.parse_known_args()
    late = [word for word in rest if "=" in word and not word.startswith("-")]
    if len(late) < len(rest) or (late and not hasattr(options, "overrides")):
        unknown = next((word for word in rest if word not in late), rest[0])
        near = _nearest(unknown, parser.options(options.command)).strip()
        parser.error(f"unrecognized argument: {unknown}{near and f'; {near}'}")
    if late:
        options.overrides = [*options.overrides, *late]
    if options.command == "bench" and "=" in options.config:  # CONFIG was left out
        options.overrides = [options.config, *options.overrides]
        options.config = _BENCH_CONFIG
    if options.command == "train":
        _settle_resume(parser, options)
    return options


def _complete(parser: argparse.ArgumentParser) -> NoReturn:
    """Tells a shell how the word before its cursor may go on, and ends this process."""
    import argcomplete

    from scripts import completion

    completion.add_to(parser)
    argcomplete.autocomplete(parser)
    raise SystemExit(1)


def _settle_resume(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Tells the folder behind `--resume` from a CONFIG or a KEY=VALUE that stands there.

    Then `resume` says whether, `run_dir` where, and `config` by which configuration.
    """
    named, words = options.resume, options.overrides
    if options.config is not None and "=" in options.config and not os.path.exists(options.config):
        options.config, words = None, [options.config, *words]
    if named and "=" in named and not os.path.exists(named):
        named, words = "", [named, *words]
    if named and options.run_dir is not None and options.config is None:
        options.config, named = named, ""
    options.resume, options.overrides = named is not None, words
    if named:
        if options.run_dir is not None or options.config is not None:
            parser.error("--resume RUN_DIR takes the run's own configuration: leave out CONFIG")
        options.run_dir = named
    if options.config is None and not (options.resume and options.run_dir):
        parser.error("CONFIG is missing (`bmg configs` lists them), or --resume RUN_DIR")


def _path(text: str) -> str:
    """A path as it was meant: `--run-dir=~/x` reaches us as it stands, unlike `--run-dir ~/x`."""
    path = os.path.expanduser(text)
    if not path:
        raise argparse.ArgumentTypeError("must not be empty")
    if path.startswith("~"):
        raise argparse.ArgumentTypeError(f"{text}: no such user; write ./{text} if it is a name")
    return path


def _path_or_nothing(text: str) -> str:
    return text and _path(text)


def _positive(text: str) -> int:
    return _whole(text, 1, 2**53, "must be a whole number, at least 1")


def _seed(text: str) -> int:
    return _whole(text, 0, 2**31 - 1, "must be a whole number in [0, 2**31)")


def _whole(text: str, lowest: int, highest: int, wanted: str) -> int:
    is_whole = text.isascii() and text.isdigit() and len(text) <= 20
    if not is_whole or not lowest <= int(text) <= highest:
        raise argparse.ArgumentTypeError(f"{text} {wanted}")
    return int(text)


def _prints_its_result(options: argparse.Namespace) -> bool:
    """Whether what a command prints is all that comes of it; others leave it in a folder."""
    return options.command in ("bench", "configs", "games", "status") or getattr(
        options, "dry_run", False
    )


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "train":
        from scripts.train import train

        return train(
            options.config, options.overrides, options.run_dir, options.resume, options.dry_run
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

        return bench(options.config, options.overrides, options.seconds)
    if options.command == "sweep":
        from scripts.sweep.sweep import sweep

        return sweep(
            options.sweep, options.overrides, options.results, options.resume, options.dry_run
        )
    if options.command == "report":
        from configs.load import frames_of
        from scripts.report.report import report

        frames = None if options.frames is None else frames_of("--frames", options.frames)
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


def _complain(text: str, longest: int = _LONGEST_LINE) -> None:
    """Writes one line to stderr, whatever a user's values hold; the middle of a long one is cut."""
    line = " ".join(f"bmg: {text}".split())
    line = printable(line, len(line))
    if len(line) > longest:
        half = (longest - 5) // 2
        line = f"{line[:half]} ... {line[-half:]}"
    print(line, file=sys.stderr)


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
            _complain(fault)
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
    _complain(told, _LONGEST_REASON)
    return 1


def main() -> None:
    """Entry point of `bmg`. Exit status: 0, 1 failed, 2 bad usage, 128 + n after a signal n."""
    # Ray and the video writer fork only to execute another program at once, which is safe beside
    # JAX's threads.
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_CurrentStderr()])
    signals.leave_at_once()
    output = Output()
    options = _parse()
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
                _complain(f"{options.command}: standard output cannot be written: {error}")
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
    for number in signals.ending():  # what is left is to end
        signal.signal(number, lambda number, frame: os._exit(status))
    raise SystemExit(status)


if __name__ == "__main__":
    main()
