"""What a shell may complete: names of configurations and of sweeps, keys, files."""

import argparse
from collections.abc import Iterable
from typing import Any

from argcomplete.completers import FilesCompleter

from configs.load import flat, named_configs
from configs.schema import Config
from configs.sweep import named_sweeps

_files = FilesCompleter()


def add_to(parser: argparse.ArgumentParser) -> None:
    """Gives each argument of the commands what it takes; the others take files."""
    completers = {"config": _configurations, "overrides": _keys, "sweep": _sweeps}
    commands: Any = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:
            if action.dest in completers:
                action.completer = completers[action.dest]


def _configurations(prefix: str, **context: Any) -> Iterable[str]:
    del context
    return [*named_configs(), *_files(prefix)]


def _sweeps(prefix: str, **context: Any) -> Iterable[str]:
    del context
    return [*named_sweeps(), *_files(prefix)]


def _keys(prefix: str, **context: Any) -> Iterable[str]:
    del prefix, context
    return [f"{key}=" for key in flat(Config().model_dump(mode="json"))]
