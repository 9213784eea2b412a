"""From a name or a file and KEY=VALUE overrides to a `Config`, or one line that says why not."""

import copy
import difflib
import functools
import importlib.resources
import re
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agents.settings import MEANING, STACX_KL_COST
from configs import yaml_text
from configs.names import ENVIRONMENT_ID, game_of
from configs.schema import Config, config_type, takes


class ConfigError(Exception):
    """A configuration cannot be used; one line names the key, the value and what is allowed."""


class ConfigErrors(ConfigError):
    """A configuration or a sweep cannot be used; a line for each of its faults."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


_MOST_GROUPS = 5  # one within the other; there are two
SWEEPS = "sweeps"  # the folder under configs/ of what `bmg sweep` takes


def named_configs() -> list[str]:
    """Names that `load` takes, as `atari/quickstart`."""
    root = importlib.resources.files("configs")
    return sorted(
        f"{folder.name}/{file.name.removesuffix('.yaml')}"
        for folder in root.iterdir()
        if folder.is_dir() and folder.name != SWEEPS
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    )


# Sees to it that plugins are imported; of their names, and of what names them.
SeeTo = Callable[[Sequence[str], str], None]


def require_imported(plugins: Sequence[str], source: str) -> None:
    """Refuses a file with plugins that this process has not imported: to read is not to run.

    Raises:
        ConfigError: one line.
    """
    for name in plugins:
        if name not in sys.modules:
            raise ConfigError(
                f"plugins={name}: {source} needs that module, and here it is not imported; if you "
                "trust it, add it to the plugins of this run"
            )


def load(source: str, overrides: Sequence[str] = (), see_to: SeeTo = require_imported) -> Config:
    """Reads a configuration.

    Args:
        source: a name under configs/ (`atari/quickstart`) or the path of a YAML file.
        overrides: `dotted.key=value`, the value in YAML; later ones win.
        see_to: its plugins, before any other key is looked at. Commands that run a configuration
            import them (scripts/plugins.py).

    Raises:
        ConfigErrors: keys or values cannot be used.
        ConfigError: the file cannot be used, or an override is no KEY=VALUE.
    """
    config, faults = load_partly(source, overrides, see_to)
    if faults:
        raise ConfigErrors(faults)
    return config


def load_partly(
    source: str, overrides: Sequence[str] = (), see_to: SeeTo = require_imported
) -> tuple[Config, list[str]]:
    """As `load`, but what is wrong with single keys is returned, and those have their defaults.

    Raises:
        ConfigError: the file cannot be used, or an override is no KEY=VALUE.
    """
    content = _read(source)
    for override in overrides:
        _assign(content, *parse_override(override))
    see_to(_plugins_of(content), source)
    faults: list[str] = []
    try:
        config = config_type().model_validate(content)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            faults.append(_explain(fault))
            _forget(content, fault["loc"])
        try:
            config = config_type().model_validate(content)
        except ValidationError:  # a key that is no text, say
            raise ConfigErrors(faults) from None
    try:
        config = _settle_plain(config, {override.partition("=")[0] for override in overrides})
    except ConfigError as error:
        faults.append(str(error))
    if "name" not in content:
        config = config.model_copy(update={"name": name_of(source)})
    return config, faults


def _plugins_of(content: dict[str, Any]) -> list[str]:
    try:
        return Config.model_validate({"plugins": content.get("plugins", [])}).plugins
    except ValidationError:  # which is told with all other faults
        return []


def parse_override(override: str) -> tuple[str, Any]:
    """The key and the value of KEY=VALUE.

    Raises:
        ConfigError: it is something else.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is no KEY=VALUE, like env.game=breakout")
    try:
        text.encode()
    except UnicodeEncodeError:  # the run's config.yaml could not be read again
        shown = ascii(text)[1:41]
        raise ConfigError(f"{key}={shown}: is no UTF-8 text; is the locale UTF-8?") from None
    if _takes_text_alone(key) and yaml_text.is_number(text):
        return key, text.strip()  # as it was typed: 007 and 1e5 are names, too
    try:
        return key, yaml_text.parse(text)
    except yaml_text.Refused as error:
        raise ConfigError(f"{key}: {error}") from None
    except yaml_text.NotYaml:  # a path with brackets, say
        return key, text


def _takes_text_alone(key: str) -> bool:
    model: Any = config_type()
    for name in key.split("."):
        fields = getattr(model, "model_fields", {})
        if name not in fields:
            return False
        model = fields[name].annotation
    return takes(model, str) and not takes(model, int, float, list)


def frames_of(option: str, text: str) -> int:
    """The number of frames that an option of a command is given, written as `total_frames` may be.

    Args:
        option: names it where it cannot be used, as `--frames`.
        text: 4000000, 4e6 or 4M.

    Raises:
        ConfigError: it is no such number.
    """
    try:
        return Config.model_validate(
            {"total_frames": parse_override(f"total_frames={text}")[1]}
        ).total_frames
    except ValidationError as error:
        line = _explain(error.errors(include_url=False)[0])
        raise ConfigError(line.replace("total_frames=", f"{option} ", 1)) from None


def _forget(content: dict[str, Any], path: Sequence[str | int]) -> None:
    """Takes out the value that pydantic complains about, or the one of which it is a part."""
    if not path:  # of a key that is no text
        return
    node: Any = content
    for name in path[:-1]:
        child: Any = cast(dict[Any, Any], node).get(name)
        if not isinstance(child, dict):
            node.pop(name, None)
            return
        node = cast(dict[str, Any], child)
    node.pop(path[-1], None)


def _settle_plain(config: Config, overridden: set[str]) -> Config:
    """Gives an algorithm the values of `meta` that define it, whatever a file says.

    Raises:
        ConfigError: an override asks for something else.
    """
    settled = MEANING.get(config.agent.algorithm)
    if settled is None:
        return config
    for key, value in settled.items():
        given = getattr(config.meta, key)
        if f"meta.{key}" in overridden and given != value:
            raise ConfigError(
                f"meta.{key}={given}: agent.algorithm={config.agent.algorithm} means "
                f"meta.{key}={value}; leave the key out, or use agent.algorithm=bmg"
            )
    outer = config.meta.outer
    if config.agent.algorithm == "stacx" and "kl_cost" not in outer.model_fields_set:
        settled = settled | {"outer": outer.model_copy(update={"kl_cost": STACX_KL_COST})}
    return config.model_copy(update={"meta": config.meta.model_copy(update=settled)})


def dump(config: Config) -> str:
    """The whole resolved configuration as YAML; `load` of it gives the same configuration."""
    return yaml_text.dump(config.model_dump(mode="json"))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key, of groups within groups."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(cast(dict[str, Any], value), f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def completed(values: dict[str, Any]) -> dict[str, Any]:
    """A flat configuration with what an older version wrote, and its defaults for younger keys.

    A key is added with the default that leaves everything as it was, so this is what the run did.
    """
    return flat(Config().model_dump(mode="json")) | values


def name_of(source: str) -> str:
    """A name from a configuration's: `atari/quickstart` becomes `atari-quickstart`."""
    stem = Path(source).stem if source.endswith((".yaml", ".yml")) else source
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in stem)


def sources(source: str, overrides: Sequence[str] = ()) -> dict[str, str]:
    """Where each value comes from that is no default, by dotted key.

    Raises:
        ConfigError: as `load`.
    """
    found: dict[str, str] = {}
    for name, keys in _layers(source):
        found |= dict.fromkeys(flat(keys), name)
    for override in overrides:
        key, value = parse_override(override)
        found |= dict.fromkeys(flat({key: value}), "command line")
    return found


def purpose(name: str) -> str:
    """What a named configuration is for: the first sentence of its file."""
    text = importlib.resources.files("configs").joinpath(f"{name}.yaml").read_text("utf-8")
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return re.split(r"\.(?= [A-Z`]|$)", " ".join(lines))[0]


def _read(source: str) -> dict[str, Any]:
    return functools.reduce(_merge, (keys for _, keys in _layers(source)))


def _layers(source: str, seen: tuple[str, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """What a configuration is made of, its bases first, each with what names it."""
    seen = (*seen, source)
    if source in named_configs():
        keys = read_named(source)
    elif source.endswith((".yaml", ".yml")) or _is_file(Path(source)):
        keys = read_file(source, "configuration")
    else:
        if source.split("/")[0] == SWEEPS:
            raise ConfigError(f"{source} is a sweep; `bmg sweep {source}` runs it")
        if match := ENVIRONMENT_ID.fullmatch(source):
            raise ConfigError(
                f"no configuration named {source!r}: it is the name of an environment; write "
                f"{_with_environment(source, match)}"
            )
        names = named_configs()
        near = _nearest(source, names)
        hint = f"{near} or" if near else f"there are {', '.join(names)}; or"
        raise ConfigError(f"no configuration named {source!r}; {hint} give a .yaml file")
    base = keys.pop("base", None)
    if base is None:
        return [(source, keys)]
    if not isinstance(base, str) or base in seen:
        raise ConfigError(f"base={base} in {source}: must name another configuration")
    return [*_layers(base, seen), (source, keys)]


def _with_environment(source: str, match: re.Match[str]) -> str:
    """How to train on an environment of that name."""
    if not (match["ale"] or match["kind"]):
        return f"`bmg train catch/impala env.suite=gymnasium env.game={source}`"
    return f"`bmg train atari/quickstart env.game={game_of(match)}`"


def read_named(name: str) -> dict[str, Any]:
    """The keys and values of a file that is shipped under configs/.

    Raises:
        ConfigError: it holds something else.
    """
    return copy.deepcopy(_named(name))


@functools.cache  # a sweep asks for each of its trials
def _named(name: str) -> dict[str, Any]:
    text = importlib.resources.files("configs").joinpath(f"{name}.yaml").read_text("utf-8")
    return _keys(name, text)


def read_file(source: str, kind: str) -> dict[str, Any]:
    """The keys and values of a user's YAML file.

    Args:
        source: its path.
        kind: what it should be, for the message.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    path = Path(source).expanduser()
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # which nobody may ever write to
            raise ConfigError(f"cannot read {kind} {source}: it is no file")
        with path.open(encoding="utf-8") as file:  # as YAML says, whatever the locale
            text = file.read(yaml_text.MOST_CHARACTERS + 1)
    except (OSError, ValueError) as error:  # ValueError: no text, or a path that cannot be one
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"cannot read {kind} {source}: {reason}") from None
    return _keys(source, text)


def _keys(source: str, text: str) -> dict[str, Any]:
    try:
        content = yaml_text.parse(text)
    except yaml_text.Refused as error:
        raise ConfigError(f"{source}: {error}") from None
    except yaml_text.NotYaml as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from None
    if content is None:
        raise ConfigError(f"{source} is empty; it must hold keys and values")
    if not isinstance(content, dict):
        raise ConfigError(f"{source} must hold keys and values, not a {type(content).__name__}")
    return {str(key): value for key, value in cast(dict[Any, Any], content).items()}


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `changes`, group by group."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(cast(dict[str, Any], old), cast(dict[str, Any], value))
        else:
            merged[key] = value
    return merged


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than a path can be, or none at all
        return False


def _assign(content: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split(".")
    if len(groups) > _MOST_GROUPS:
        raise ConfigError(f"unknown key {key}")
    node = content
    for depth, group in enumerate(groups):
        child: Any = node.setdefault(group, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: {'.'.join(groups[: depth + 1])} is a value, not a group")
        node = cast(dict[str, Any], child)
    old = node.get(last)
    if isinstance(old, dict) and isinstance(value, dict):  # as a file on top of its base
        value = _merge(cast(dict[str, Any], old), cast(dict[str, Any], value))
    node[last] = value


def _nearest(word: str, candidates: Sequence[str]) -> str | None:
    matches = difflib.get_close_matches(word[:100], candidates, n=1, cutoff=0.5)
    return f"did you mean {matches[0]!r}?" if matches else None


def _group(path: Sequence[str | int]) -> type[BaseModel]:
    """The model in which the last element of a key's path is looked up."""
    model: type[BaseModel] = config_type()
    for name in path[:-1]:
        annotation = model.model_fields[str(name)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return model


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys.extend(_all_keys(annotation, f"{prefix}{name}."))
        else:
            keys.append(f"{prefix}{name}")
    return keys


def _explain(fault: ErrorDetails) -> str:
    """A fault in one line."""
    path = list(fault["loc"])
    key = ".".join(str(part) for part in path)
    value = fault["input"]
    if not path:  # no text that could be shown, as bytes of another encoding
        return "a key is not text; keys are those of docs/configuration.md"
    if fault["type"] == "extra_forbidden":
        siblings = list(_group(path).model_fields)
        prefix = key[: -len(str(path[-1]))]
        nearest = _nearest(str(path[-1]), siblings)
        if key in (keys := _all_keys(config_type())):  # dotted, as on the command line
            group, _, last = key.rpartition(".")
            nearest = f"in a file, {last} stands below {group.replace('.', ': ')}:"
        elif nearest is None:
            nearest = _nearest(key, keys)
        elif prefix:
            nearest = nearest.replace("'", f"'{prefix}", 1)
        message = f"unknown key {key}; " + (nearest or f"allowed here: {', '.join(siblings)}")
    elif fault["type"] == "literal_error":
        allowed = fault.get("ctx", {}).get("expected", "")
        options = allowed.replace("'", "").replace(" or ", ", ").split(", ")
        hint = _nearest(str(value), options)
        message = f"{key}={value}: must be one of {', '.join(options)}" + (
            f"; {hint}" if hint else ""
        )
    else:
        reason = fault["msg"][0].lower() + fault["msg"][1:]
        message = f"{key}={value}: {reason}"
    return " ".join(message.split())
