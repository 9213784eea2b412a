"""The command line of `bmg`: what may stand there, and what it means."""

import argparse
import difflib
import importlib.metadata
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from scripts.output import complain

_BENCH_CONFIG = "atari/quickstart"


class _Parser(argparse.ArgumentParser):
    """One readable line for bad usage, as for bad configuration."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
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
    train.add_argument(
        "--profile",
        action="store_true",
        help="also traces ten steps of the learner, at most a second, into RUN_DIR/profile",
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
    bench.add_argument(
        "--budget",
        type=_positive,
        metavar="SECONDS",
        help="for everything: a line for each stage at once, the most important first",
    )
    bench.add_argument(
        "--stages",
        type=_names,
        metavar="NAME,...",
        default=[],
        help="only these, in this order, as a line of --budget calls them",
    )

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


def parse() -> argparse.Namespace:
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
        if os.path.isdir(named):
            parser.error(f"--resume {named} and --run-dir name two folders: leave one out")
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


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _whole(text: str, lowest: int, highest: int, wanted: str) -> int:
    is_whole = text.isascii() and text.isdigit() and len(text) <= 20
    if not is_whole or not lowest <= int(text) <= highest:
        raise argparse.ArgumentTypeError(f"{text} {wanted}")
    return int(text)
