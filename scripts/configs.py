"""`bmg configs`: the configurations that are there, and one of them resolved."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agents.settings import MEANING
from configs import load as config_load
from configs import yaml_text
from configs.schema import Config
from scripts import plugins


def configs(source: str | None, overrides: list[str]) -> int:
    """Lists all names with a line each, or prints one configuration with the source of each value.

    What it prints is a configuration itself: `bmg configs atari/bmg > mine.yaml`.

    Raises:
        ConfigError: there is no such configuration, or a value cannot be used.
    """
    if source is not None:
        config = config_load.load(source, overrides, plugins.import_all)
        _print(config.model_dump(mode="json"), source, overrides)
        return 0
    purposes = {name: config_load.purpose(name) for name in config_load.named_configs()}
    if not sys.stdout.isatty():  # a line each, for grep
        width = max(map(len, purposes))
        for name, purpose in purposes.items():
            print(f"{name:<{width}}  {purpose}")
        return 0
    table = Table.grid(padding=(0, 2))
    for name, purpose in purposes.items():
        table.add_row(name, purpose)
    Console(highlight=False).print(table)
    return 0


def print_plan(
    config: Config, source: str, overrides: list[str], path: Path | None, trained: int
) -> int:
    """Prints a configuration as `configs` does, and below it what would start.

    Args:
        config: resolved.
        source: of it.
        overrides: of its keys.
        path: of the run folder; None: a new one.
        trained: frames of the run that would go on.
    """
    _print(config.model_dump(mode="json"), source, overrides)
    each = f"{config.seeds} seeds x " if config.seeds > 1 else ""
    left, unit = max(0, config.total_frames - trained), config.env.unit
    updates = config.updates_of(left)
    actors = config.actors
    plays = {
        "ray": f"{actors.count} Ray actors x {actors.envs_per_actor} environments",
        "in_process": f"{actors.count} x {actors.envs_per_actor} environments in this process",
        "on_device": f"{config.learner.batch_size} environments of each seed on the device",
    }[actors.runtime]
    where = str(path) if path is not None else f"runs/{config.name}-DATE-TIME"
    if trained:
        print(f"# would go on after {each}{trained:,} of {config.total_frames:,} {unit}")
    print(f"# would train {each}{left:,} {unit} in {updates:,} updates")
    print(f"# played by {plays}")
    print(f"# into {where}")
    return 0


def _print(values: Mapping[str, Any], source: str, overrides: list[str]) -> None:
    given = config_load.sources(source, overrides)
    name = values["agent"]["algorithm"]
    given |= {f"meta.{key}": f"agent.algorithm={name}" for key in MEANING.get(name, {})}
    for line in _lines(values, given, ""):
        print(line)


def _lines(values: Mapping[str, Any], given: Mapping[str, str], prefix: str) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _lines(value, given, f"{prefix}{key}.")
            continue
        if isinstance(value, list):
            shown = f"{key}: {json.dumps(value)}"
        else:
            shown = yaml_text.dump({key: value}).rstrip("\n")
        yield f"{indent}{shown}  # {given.get(prefix + key, 'default')}"
