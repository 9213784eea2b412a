"""Settings: which runs may be averaged, what they are called, and in what they differ."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.schema import operational_keys
from learner.reading import printable
from scripts.report.runs import Run, shown

_SHORT = {"meta.inner_steps": "K", "meta.bootstrap_steps": "L"}
# What may differ between runs that are averaged, as if they were seeds of one: where they ran, what
# they wrote, and how far they went, which the report says.
NOT_OF_THE_SETTING = ("seed", "seeds", "total_frames", *operational_keys())


def by_setting(
    runs: Iterable[Run], left_out: Iterable[str], *, named: bool
) -> dict[str, list[Run]]:
    """Runs that are of one setting, under its label.

    Args:
        runs: any.
        left_out: keys and groups of a configuration that are no part of a setting.
        named: runs of different names are of different settings.
    """
    settings: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        key = setting_of(run, left_out), run.name if named else ""
        settings.setdefault(key, []).append(run)
    found = labels([members[0] for members in settings.values()], left_out)
    return dict(zip(found, settings.values(), strict=True))


def setting_of(run: Run, left_out: Iterable[str] = NOT_OF_THE_SETTING) -> str:
    """Its configuration but for some keys; its path where it has none."""
    kept = without(run.config, left_out)
    return json.dumps(kept or str(run.path), sort_keys=True, default=str)


def without(config: dict[str, Any], left_out: Iterable[str]) -> dict[str, Any]:
    """A flat configuration without some keys and groups."""
    names = tuple(left_out)
    groups = tuple(f"{name}." for name in names)
    return {k: v for k, v in config.items() if k not in names and not k.startswith(groups)}


def labels(runs: Sequence[Run], left_out: Iterable[str], most: int | None = 4) -> list[str]:
    """What settings are called: by their names, and by what differs where several share one.

    Args:
        runs: one of each setting.
        left_out: keys and groups that are no part of a setting.
        most: keys that a label tells; None: all of them, as where fewer do not tell them apart.
    """
    settings = [without(run.config, left_out) for run in runs]
    found: list[str] = []
    for run, own in zip(runs, settings, strict=True):
        sharing = [s for other, s in zip(runs, settings, strict=True) if other.name == run.name]
        every = dict.fromkeys(key for setting in sharing for key in setting)
        differing = [key for key in every if len({_text(s.get(key)) for s in sharing}) > 1]
        differing.sort(key=lambda key: key not in _SHORT)  # K and L first
        tails = [key.rpartition(".")[2] for key in differing]
        told = [
            f"{_SHORT.get(key, tail if tails.count(tail) == 1 else key)}={_text(own.get(key))}"
            for key, tail in zip(differing, tails, strict=True)
        ]
        if most is not None and len(told) > most:
            told[most:] = ["..."]
        found.append(f"{run.name} ({', '.join(told)})" if told else run.name)
    if most is not None and len(set(found)) < len(found):
        return labels(runs, left_out, None)
    for index, label in enumerate(found):
        found[index] = _unique(label, found[:index], runs[index].path)
    return found


def difference_rows(
    configs: Mapping[str, dict[str, Any]], left_out: Iterable[str]
) -> list[dict[str, Any]]:
    """A row for each key in which settings differ; for each setting, where there are more of these.

    Args:
        configs: flat, by label.
        left_out: keys and groups that are no part of a setting.
    """
    settings = {label: without(config, left_out) for label, config in configs.items()}
    every = dict.fromkeys(key for setting in settings.values() for key in setting)
    values = {key: {label: s.get(key) for label, s in settings.items()} for key in every}
    differing = {
        key: {label: v if type(v) is int else _text(v) for label, v in of.items()}
        for key, of in values.items()
        if len(set(map(_text, of.values()))) > 1
    }
    if len(settings) <= len(differing):
        return [{"key": key} | of for key, of in differing.items()]
    rows = [{"run": label} | {k: of[label] for k, of in differing.items()} for label in settings]
    return rows if differing else []


def _unique(label: str, taken: Sequence[str], path: Path) -> str:
    """The label, or the label with as much of a path as tells it from all others."""
    candidate = label
    for count in range(1, len(path.parts) + 1):
        if candidate not in taken:
            break
        candidate = f"{label} [{printable('/'.join(path.parts[-count:]))}]"
    return candidate


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return shown("+".join(map(str, value))) or "none"
    if type(value) is int and abs(value) >= 10_000:
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else shown(value)
