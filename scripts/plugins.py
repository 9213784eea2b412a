"""Plugins: modules that a configuration names, and that add to the tables before it is read."""

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agents import hyperparameters
from agents.hyperparameters import Hyperparameter
from configs.load import ConfigError
from configs.names import TABLES
from configs.schema import AgentConfig, EnvironmentConfig, OuterConfig, config_type
from scripts import jax_environment

_log = logging.getLogger(__name__)
# Of a meta-update, beside the values of the hyper-parameters.
_METRICS = ("loss", "gradient_norm", "target_distance", "cosine", "greedy_changes")


class _Table(NamedTuple):
    name: str
    module: Any
    entries: dict[str, Any]  # the table itself
    before: dict[str, Any]  # what it held


def import_all(names: Sequence[str], source: str, *, say: bool = False) -> None:
    """Imports plugins, those in the current folder included, and looks at what they have added.

    Args:
        names: of their modules.
        source: the file that names them.
        say: a line before each import, where a stranger's file may ask for it.

    Raises:
        ConfigError: one line; nothing was created.
    """
    for name in names:
        if say:
            _say(name, source)
        if fault := _fault(name):
            raise ConfigError(f"plugins={name}: {fault}")


# A flat dictionary as it stands in metrics.jsonl, and the run folder.
Sink = Callable[[dict[str, Any], Path], object]


def sink(name: str, source: str, *, say: bool = False) -> Sink:
    """The function that `logging.sink` names.

    Args:
        name: module:function.
        source: the file that names it.
        say: a line before the import, where a stranger's file may ask for it.

    Raises:
        ConfigError: one line; nothing was created.
    """
    module, _, function = name.partition(":")
    if say:
        _say(module, source, "sink")
    _look_here_too()
    try:
        found = getattr(importlib.import_module(module), function, None)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"logging.sink={name}: {_not_imported(module, error)}") from None
    if not callable(found):
        raise ConfigError(f"logging.sink={name}: {module} has no function {function}")
    return found


def say_game(env: EnvironmentConfig, source: str) -> None:
    """Says which module the game of a stranger's file names; it is imported where it is made."""
    module, colon, _ = env.game.partition(":")
    if env.suite == "gymnasium" and colon:
        _say(module, source, "environment")


def _say(name: str, source: str, what: str = "plugin") -> None:
    _look_here_too()
    if file := _file_of(name.partition(".")[0]):
        _log.warning("bmg: %s names the %s %s: %s is run", source, what, name, file)


def _file_of(name: str) -> str | None:
    """Where a module would be imported from; of one within a package, that is imported before."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: of a module without a specification
        return None
    return found.origin if found else None


@contextlib.contextmanager
def blamed(names: Sequence[str], source: str) -> Iterator[None]:
    """Takes what is raised within for a fault of plugins, where there are any.

    Raises:
        ConfigError: one line with the place.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if not names:
            raise
        files = [getattr(sys.modules[name], "__file__", None) for name in names]
        raise ConfigError(f"plugins={', '.join(names)}: {source}: {_told(error, files)}") from error


@functools.cache  # a sweep asks for each of its trials, and nothing is imported twice
def _fault(name: str) -> str | None:
    """Imports a plugin; what is wrong with it, if anything is."""
    jax_environment.require_jax()
    from jax._src.xla_bridge import backends_are_initialized  # nothing public says it

    tables = _tables()
    computes = backends_are_initialized()
    _look_here_too()
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        return _not_imported(name, error)
    if backends_are_initialized() and not computes:
        return "it computes with JAX while it is imported; do that in a function"
    faults = (_fault_of_table(table) for table in tables)
    return next(filter(None, faults), None) or _fault_of_hyperparameters(tables[0].before)


def _not_imported(name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
        return (
            f"no such module is installed, or lies in {os.getcwd()}; start bmg in the folder "
            "that it lies in, or install it"
        )
    return _told(error, [_file_of(name)])


def _look_here_too() -> None:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: what lies there by chance replaces nothing


def _tables() -> list[_Table]:
    places = [(hyperparameters.__name__, "HYPERPARAMETERS")]
    places += [(table.module, table.attribute) for table in TABLES.values()]
    tables: list[_Table] = []
    for path, name in places:
        module = importlib.import_module(path)
        entries = getattr(module, name)
        tables.append(_Table(name, module, entries, dict(entries)))
    return tables


def _fault_of_table(table: _Table) -> str | None:
    from actors.environments.suites import Suite
    from agents.objectives import Objective

    if getattr(table.module, table.name) is not table.entries:
        return f"it replaces {table.name}; add to it, as in {table.name}['mine'] = ..."
    for name, entry in table.before.items():
        if table.entries.get(name) is not entry:
            return f"it changes {table.name}[{name!r}]; give yours a name of its own"
    kinds = {"HYPERPARAMETERS": Hyperparameter, "OBJECTIVES": Objective, "SUITES": Suite}
    kind = kinds.get(table.name)
    for name, entry in table.entries.items():
        if not isinstance(name, str) or not name.isidentifier():
            return f"{table.name}[{name!r}]: a name has letters, digits and _ only"
        if not (callable(entry) if kind is None else isinstance(entry, kind)):
            wanted = "a function" if kind is None else f"{kind.__module__}.{kind.__name__}"
            return f"{table.name}[{name!r}] is no {wanted.removeprefix('a ')}"
        if isinstance(entry, Suite) and entry.make is None and entry.on_device is None:
            return f"{table.name}[{name!r}]: a suite has make, on_device or both"
    return None


def _fault_of_hyperparameters(before: dict[str, Any]) -> str | None:
    for name in hyperparameters.HYPERPARAMETERS:
        if name not in before and name in (*AgentConfig.model_fields, *OuterConfig.model_fields):
            return f"HYPERPARAMETERS[{name!r}]: agent or meta.outer has a key of that name already"
        if name not in before and name in _METRICS:
            return f"HYPERPARAMETERS[{name!r}]: meta/{name} is another metric; take another name"
    try:
        config_type()
    except Exception as error:  # of pydantic: values out of their bounds, names that it uses itself
        return f"HYPERPARAMETERS: {' '.join(str(error).split())}"
    return None


def _told(error: BaseException, files: Sequence[str | None]) -> str:
    """An error in one line, with the place in these files, if it came by way of one, or its own."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename in files] or [
        frame for frame in frames if not frame.filename.startswith("<")
    ]
    where = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
