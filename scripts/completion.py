"""What a shell may complete: names of configurations and of sweeps, keys, files."""

import argparse
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from argcomplete.completers import FilesCompleter

from actors.environments.atari_games import BY_NAME
from actors.environments.suites import SUITES
from configs.load import flat, named_configs
from configs.names import TABLES, known
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
    del context
    key, given, _ = prefix.partition("=")
    if given:
        return [f"{key}={value}" for value in _values(key)]
    return [f"{key}=" for key in flat(Config().model_dump(mode="json"))]


def _values(key: str) -> Iterable[str]:
    """What a key may be set to, where that can be listed."""
    if key == "env.game":
        return [*BY_NAME, *(game for suite in SUITES.values() for game in suite.games or ())]
    if key in TABLES:
        return known(key)
    model: Any = Config
    for name in key.split("."):
        field = getattr(model, "model_fields", {}).get(name)
        if field is None:
            return []
        model = field.annotation
    if model is bool:
        return ["true", "false"]
    return list(_choices(model))


def _choices(annotation: Any) -> Iterator[str]:
    """The texts of a Literal, also of one that may be None."""
    for part in get_args(annotation):
        if isinstance(part, str):
            yield part
        else:
            yield from _choices(part)
