"""From a sweep file to its trials: base configuration, variants, and a grid over any keys."""

import collections
import importlib.resources
import itertools
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from configs.load import (
    SWEEPS,
    ConfigError,
    ConfigErrors,
    flat,
    name_of,
    parse_override,
    read_file,
    read_named,
)
from configs.schema import as_meant

ALL_GAMES = "atari57"  # as a value of env.game: all of them
_MOST_TRIALS = 20_000  # whose configurations are loaded and checked in a minute
_LONGEST_NAME = 200  # bytes; a file system takes 255, and the log of a trial has a suffix
_Name = Annotated[str, Field(pattern=r"^\w[\w.\-]*$")]  # of run folders


class _Group(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        return as_meant(value, cls.model_fields[str(info.field_name)].annotation)


class TrialResources(_Group):
    """`resources`: what Ray sets aside for each trial, learner and actors together."""

    cpus: float | None = Field(default=None, gt=0)
    """None: one for the learner and what the actors ask for, but no more than a node has."""
    gpus: float = Field(default=0.0, ge=0)
    """A fraction shares a GPU; set learner.gpu_memory to it as well. 0: trials run on CPUs."""
    memory_mb: int = Field(default=0, ge=0)
    """0: none is set aside."""

    @field_validator("gpus")
    @classmethod
    def _parts_of_one_or_whole(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("must be a part of one, or a whole number")
        return value


class SweepConfig(_Group):
    """A sweep file."""

    base: str = "atari/quickstart"
    """Configuration of all trials but those of a variant that names another."""
    set: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Keys of all trials, dotted."""
    variants: dict[_Name, dict[str, Any] | None] = Field(default_factory=dict[str, Any])
    """Named settings: `base` and dotted keys. Each is combined with the whole grid."""
    grid: dict[str, list[Any]] = Field(default_factory=dict[str, list[Any]])
    """Dotted keys and all their values."""
    resources: TrialResources = TrialResources()
    """Of each trial."""
    retries: int = Field(default=1, ge=0)
    """How often a trial that failed is started again, from its last checkpoint."""
    ray_address: str | None = None
    """As actors.ray_address: where trials run. None: on this machine."""


class Trial(NamedTuple):
    """One training of a sweep."""

    name: str  # of its run folder: bmg-pong-seed0
    variant: str
    source: str  # what `load` takes
    overrides: tuple[str, ...]


class Sweep(NamedTuple):
    """What to run."""

    name: str
    config: SweepConfig
    trials: tuple[Trial, ...]


def named_sweeps() -> list[str]:
    """Names that `load_sweep` takes, as `sweeps/smoke`."""
    folder = importlib.resources.files("configs").joinpath(SWEEPS)
    return sorted(f"{SWEEPS}/{file.name.removesuffix('.yaml')}" for file in folder.iterdir())


def load_sweep(source: str, overrides: Sequence[str], games: Sequence[str]) -> Sweep:
    """Reads a sweep and lists its trials.

    Args:
        source: a name (`sweeps/smoke`) or the path of a YAML file.
        overrides: `key=value`. A key of the sweep itself (`retries`, `resources.cpus`) is changed;
            one of the grid keeps only that value or list; `variants=bmg` keeps only that one; any
            other is a configuration key of all trials.
        games: what `env.game: atari57` stands for.

    Raises:
        ConfigErrors: with all faults of the file itself; those of the trials' configurations are
            found when they are loaded.
    """
    content = _read(source)
    only, extra = None, list[str]()
    grid: Any = content.get("grid")
    for override in overrides:
        key, value = parse_override(override)
        group, _, rest = key.partition(".")
        if key == "variants":
            only = [str(item) for item in _as_list(value)]
        elif isinstance(grid, dict) and key in grid:
            grid[key] = _as_list(value)
        elif group == "resources" and rest and isinstance(content.get(group) or {}, dict):
            content[group] = {**(content.get(group) or {}), rest: value}
        elif key in ("retries", "ray_address"):
            content[key] = value
        else:
            extra.append(override)
    try:
        config = SweepConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigErrors([_explain(source, fault) for fault in error.errors()]) from None
    if not (config.set or config.variants or config.grid or "base" in config.model_fields_set):
        raise ConfigErrors([f"{source}: nothing to run; it has no base, set, variants or grid"])
    name = name_of(source.removeprefix(f"{SWEEPS}/"))
    return Sweep(name, config, _trials(name, config, only, extra, games))


def _trials(
    name: str,
    config: SweepConfig,
    only: list[str] | None,
    extra: list[str],
    games: Sequence[str],
) -> tuple[Trial, ...]:
    variants = {key: value or {} for key, value in (config.variants or {name: {}}).items()}
    if unknown := [key for key in only or [] if key not in variants]:
        known = ", ".join(variants)
        raise ConfigErrors([f"variants={key}: there are {known}" for key in unknown])
    variants = {key: value for key, value in variants.items() if only is None or key in only}
    settings_of = {"set": config.set} | {f"variants.{key}": v for key, v in variants.items()}
    if twice := [f for where, keys in settings_of.items() for f in _twice(where, keys)]:
        raise ConfigErrors(twice)
    grid = {
        key: [*itertools.chain(*(games if value == ALL_GAMES else [value] for value in values))]
        for key, values in config.grid.items()
    }
    if (count := len(variants) * math.prod(map(len, grid.values()))) > _MOST_TRIALS:
        sizes = " x ".join(str(len(values)) for values in ([*variants], *grid.values()))
        raise ConfigErrors([f"the sweep has {sizes} = {count:,} trials; at most {_MOST_TRIALS:,}"])
    trials: list[Trial] = []
    for variant, settings in variants.items():
        base = str(settings.get("base", config.base))
        own = flat({key: value for key, value in settings.items() if key != "base"})
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            keys = {"name": variant, **flat(config.set), **own, **point}
            parts = [variant, *(_part(key, value) for key, value in point.items())]
            written = [
                f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()
            ]
            trials.append(Trial("-".join(parts), variant, base, (*written, *extra)))
    names = collections.Counter(trial.name for trial in trials)
    if repeated := sorted(trial for trial, times in names.items() if times > 1):
        raise ConfigErrors(
            [f"trial {trial} comes twice; a value is repeated" for trial in repeated]
        )
    if long := [trial for trial in names if len(trial.encode()) > _LONGEST_NAME]:
        raise ConfigErrors([f"trial {long[0]}: longer than {_LONGEST_NAME} bytes, as a folder's"])
    if not trials:
        raise ConfigErrors(["the sweep has no trials: a list of its grid is empty"])
    return tuple(trials)


def _twice(where: str, settings: dict[str, Any]) -> list[str]:
    """Faults of keys that stand there dotted and in a group; the first would be lost."""
    keys = collections.Counter(
        key for name, value in settings.items() for key in flat({name: value})
    )
    return [f"{where}: {key} stands twice; keep one" for key, times in keys.items() if times > 1]


def _part(key: str, value: Any) -> str:
    """What a point of the grid adds to the name of a trial: `pong`, `seed0`."""
    text = "".join(c if c.isalnum() or c in "._" else "_" for c in str(value))
    return text if key == "env.game" else f"{key.rpartition('.')[2]}{text}"


def _as_list(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else [value]


def _read(source: str) -> dict[str, Any]:
    if source in named_sweeps():
        return read_named(source)
    if source.endswith((".yaml", ".yml")):
        return read_file(source, "sweep")
    names = ", ".join(named_sweeps())
    raise ConfigError(f"no sweep named {source!r}; there are {names}, or give a .yaml file")


def plan_of(sweep: Sweep) -> dict[str, Any]:
    """The sweep as plain data, its trials listed."""
    trials = {t.name: {"base": t.source, "overrides": list(t.overrides)} for t in sweep.trials}
    return {"sweep": sweep.config.model_dump(mode="json"), "trials": trials}


def _explain(source: str, fault: Any) -> str:
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        known = TrialResources if key.startswith("resources.") else SweepConfig
        return f"{source}: unknown key {key}; a sweep has {', '.join(known.model_fields)}"
    return f"{source}: {key}={fault['input']}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
