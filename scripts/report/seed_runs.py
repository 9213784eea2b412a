"""Folders of runs of several seeds: reading them, and pooling the seeds of one setting.

Shapes: `S` seeds, `N` points. A point holds what happened since the point before it.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.load import ConfigError
from configs.schema import operational_keys
from learner.reading import read_summary
from learner.run_folder import SEEDS
from scripts.report.runs import read_config, read_curves, shown, without
from scripts.report.seed_statistics import binned_means, binned_sums, spacing

# What may differ between runs whose seeds are pooled: it changes no curve, or only its length.
_NOT_OF_THE_GROUP = ("seed", "seeds", "total_frames", "actors", *operational_keys())
_CHANGES, _RETURN = "greedy_changes", "episode_return"  # no names of hyper-parameters
_MOST_FRAMES = 2**53  # what a double counts exactly
_LARGEST = 1e30  # reward of a point
_SHORT = {"meta.inner_steps": "K", "meta.bootstrap_steps": "L"}


class SeedRun(NamedTuple):
    """What the folder of a run of several seeds says."""

    path: Path
    config: dict[str, Any]  # flat, completed; today's schema may not know all keys
    status: str
    frames: np.ndarray  # [N] environment steps of each seed at the end of each point
    seeds: np.ndarray  # [S]
    reward: np.ndarray  # [S, N] sums
    meta: dict[str, np.ndarray]  # [S, N] mean values of each learned hyper-parameter
    greedy_changes: np.ndarray | None  # [S, N]; of Q(lambda) that learns its epsilon
    episode_return: np.ndarray | None  # [S, N], NaN where no episode ended; None without episodes
    faults: tuple[str, ...] = ()  # what of its files cannot be read, and is left out


class Group(NamedTuple):
    """The pooled seeds of all runs of one setting, as far as all of them go."""

    label: str
    config: dict[str, Any]  # as that of its runs
    status: str  # `finished`, or how far it goes and why
    frames: np.ndarray  # [N]
    reward: np.ndarray  # [S, N]
    meta: dict[str, np.ndarray]  # [S, N]
    greedy_changes: np.ndarray | None  # [S, N]; None where a run of it has none
    episode_return: np.ndarray | None  # [S, N]; likewise

    def setting(self, key: str) -> Any:
        """The value of a dotted configuration key; None where there is none."""
        return self.config.get(key)

    @property
    def period(self) -> int | None:
        """Environment steps of a seed between two changes of its world; None: it never changes."""
        if self.setting("env.suite") == "two_colours":
            period = self.setting("env.swap_period")
            return int(period) if period else None
        period, games = self.setting("env.change_every"), self.setting("learner.batch_size")
        return int(period) * int(games) if period and games else None

    @property
    def respawn(self) -> str | None:
        """What a collection places anew: which of the two grid worlds its totals are of."""
        here = self.setting("env.suite") == "two_colours" and self.setting("env.respawn")
        return shown(here) if here else None

    @property
    def world(self) -> str:
        """What is played: results of different worlds share no figure."""
        if self.respawn:
            return f"env.respawn={self.respawn}"
        often = self.setting("env.change_every")
        changes = f", env.change_every={shown(often)}" if often else ""
        return f"env.game={shown(self.setting('env.game'))}{changes}"


def read(path: Path) -> SeedRun:
    """Reads a run folder that has a seeds.npz.

    Raises:
        ConfigError: a file of it is missing, damaged or empty.
    """
    arrays = read_curves(path)
    if fault := _fault(arrays):
        raise ConfigError(f"{path / SEEDS} {fault}")
    prefix = "meta/"
    meta = {shown(n.removeprefix(prefix)): v for n, v in arrays.items() if n.startswith(prefix)}
    summary, faults = read_summary(path)
    config, more = read_config(path)
    return SeedRun(
        path,
        config,
        summary.get("status", "unfinished"),
        arrays["frames"],
        arrays["seeds"],
        arrays["reward"],
        meta,
        arrays.get(_CHANGES),
        arrays.get(_RETURN),
        (*faults, *more),
    )


def _fault(arrays: dict[str, np.ndarray]) -> str | None:
    """What is wrong with the content of a seeds.npz, if anything is."""
    if any(name in arrays and not arrays[name].size for name in ("frames", "seeds")):
        return "is empty: the run has logged no point yet"
    if missing := [name for name in ("frames", "seeds", "reward") if name not in arrays]:
        return f"is damaged: it lacks {', '.join(missing)}"
    frames, seeds = arrays["frames"], arrays["seeds"]
    if frames.ndim != 1 or seeds.ndim != 1:
        return "is damaged: frames and seeds must have one dimension"
    for name, values in arrays.items():
        kinds = "iu" if name in ("frames", "seeds") else "iuf"
        if values.dtype.kind not in kinds:
            return f"is damaged: {name} holds no numbers"
        per_seed = name in ("reward", _CHANGES, _RETURN) or name.startswith("meta/")
        if per_seed and values.shape != (shape := (len(seeds), len(frames))):
            return f"is damaged: {name} has shape {values.shape}, not {shape} (seeds, points)"
    if frames[0] <= 0 or (frames[1:] <= frames[:-1]).any() or frames[-1] > _MOST_FRAMES:
        return "is damaged: frames do not increase"
    if len(np.unique(seeds)) < len(seeds):
        return "is damaged: a seed stands in it twice"
    # NaN compares as false.
    known = (np.abs(arrays["reward"]) < _LARGEST).all()
    return None if known else "is damaged: reward is not finite"


def pool(runs: list[SeedRun]) -> list[Group]:
    """Pools the runs whose configurations say the same agent and environment.

    Raises:
        ConfigError: a seed number comes twice in a group.
    """
    settings: dict[str, list[SeedRun]] = {}
    for run in runs:
        key = json.dumps(without(run.config, _NOT_OF_THE_GROUP), sort_keys=True, default=str)
        settings.setdefault(key, []).append(run)
    labels = _labels([members[0].config for members in settings.values()])
    return [
        _pooled(label, members) for label, members in zip(labels, settings.values(), strict=True)
    ]


def _pooled(label: str, members: list[SeedRun]) -> Group:
    owner: dict[int, Path] = {}
    for run in members:
        for seed in run.seeds.tolist():
            if seed in owner:
                raise ConfigError(
                    f"seed {seed} is in both {owner[seed]} and {run.path}, runs of one setting; "
                    "give one of them"
                )
            owner[seed] = run.path
        if run.meta.keys() != members[0].meta.keys():
            raise ConfigError(
                f"{run.path} and {members[0].path} have one setting, but learned hyper-parameters "
                "of different names"
            )
    end = min(int(run.frames[-1]) for run in members)
    coarsest = max((run.frames for run in members), key=spacing)
    grid = coarsest[coarsest <= end] if coarsest[0] <= end else np.asarray([end])
    rewards, means = zip(*(_on_grid(run, grid) for run in members), strict=True)
    reward = np.concatenate(rewards)
    meta = {name: np.concatenate([of_run[name] for of_run in means]) for name in members[0].meta}
    further: list[np.ndarray | None] = []
    for name in (_CHANGES, _RETURN):
        known = [of_run[name] for of_run in means if name in of_run]
        further.append(np.concatenate(known) if len(known) == len(members) else None)
    status = _status(members, int(grid[-1]))
    for name, values in meta.items():  # those points are left out of every mean
        if unknown := int((~np.isfinite(values)).any(1).sum()):
            status += f"; {name} is not always finite in {unknown} of {len(reward)} seeds"
    return Group(label, members[0].config, status, grid, reward, meta, further[0], further[1])


def by_world(groups: list[Group]) -> dict[str, list[Group]]:
    """Groups by `world`."""
    worlds = sorted({group.world for group in groups})
    return {world: [group for group in groups if group.world == world] for world in worlds}


def _on_grid(run: SeedRun, grid: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reward [S, N] and what is a mean [S, N], by name, at points that end at `grid` [N]."""
    count = len(grid)
    further = {_CHANGES: run.greedy_changes, _RETURN: run.episode_return}
    means = {**run.meta, **{name: v for name, v in further.items() if v is not None}}
    if np.array_equal(run.frames[:count], grid):
        return run.reward[:, :count], {name: v[:, :count] for name, v in means.items()}
    edges = np.concatenate([[0], grid])
    means = {name: binned_means(run.frames, v, edges) for name, v in means.items()}
    return binned_sums(run.frames, run.reward, edges), means


def _status(members: list[SeedRun], end: int) -> str:
    totals = [int(run.config.get("total_frames") or run.frames[-1]) for run in members]
    reasons = []
    for run, total in zip(members, totals, strict=True):
        if run.status != "finished":
            reasons.append(f"{run.path} is {run.status}")
        elif run.frames[-1] + spacing(run.frames) < total:
            reasons.append(f"{run.path} lacks its end")
        elif run.frames[-1] < max(other.frames[-1] for other in members):
            reasons.append(f"{run.path} ends there")
    if not reasons:
        return "finished"
    return f"only to {end:,} of {max(totals):,} steps: {', '.join(reasons)}"


def _labels(configs: list[dict[str, Any]], most: int | None = 4) -> list[str]:
    """A label for each group: its name, and what differs (`most` keys) where groups share it."""
    names = [shown(config.get("name", "run")) for config in configs]
    flats = [without(config, _NOT_OF_THE_GROUP) for config in configs]
    labels = []
    for name, own in zip(names, flats, strict=True):
        sharing = [other for n, other in zip(names, flats, strict=True) if n == name]
        every = dict.fromkeys(key for other in sharing for key in other)
        differing = [key for key in every if len({_text(other.get(key)) for other in sharing}) > 1]
        differing.sort(key=lambda key: key not in _SHORT)  # K and L first
        tails = [key.rpartition(".")[2] for key in differing]
        told = [
            f"{_SHORT.get(key, tail if tails.count(tail) == 1 else key)}={_text(own.get(key))}"
            for key, tail in zip(differing, tails, strict=True)
        ]
        if most is not None and len(told) > most:
            told[most:] = ["..."]
        labels.append(f"{name} ({', '.join(told)})" if told else name)
    return labels if most is None or len(set(labels)) == len(labels) else _labels(configs, None)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return shown("+".join(map(str, value))) or "none"
    return f"{value:g}" if isinstance(value, float) else shown(value)
