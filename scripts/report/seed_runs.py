"""Runs of several seeds in one program: pooling the seeds of one setting.

Shapes: `S` seeds, `N` points. A point holds what happened since the point before it.
"""

from typing import Any, NamedTuple

import numpy as np

from configs.load import ConfigError
from scripts.report.figures import span
from scripts.report.runs import CHANGES, META, RETURN, REWARD, Run, shown
from scripts.report.seed_statistics import binned_means, binned_sums, spacing
from scripts.report.settings import NOT_OF_THE_SETTING, by_setting

# What may differ between runs whose seeds are pooled: it changes no curve, or only its length.
NOT_OF_THE_GROUP = (*NOT_OF_THE_SETTING, "actors")


class Group(NamedTuple):
    """The pooled seeds of all runs of one setting, as far as all of them go."""

    label: str
    config: dict[str, Any]  # as that of its runs
    status: str  # `finished`, or how far it goes and why
    frames: np.ndarray  # [N]
    curves: dict[str, np.ndarray]  # [S, N] by name, of those that all its runs have

    @property
    def reward(self) -> np.ndarray:
        """Reward [S, N] of each point."""
        return self.curves[REWARD]

    @property
    def meta(self) -> dict[str, np.ndarray]:
        """Mean values [S, N] of each learned hyper-parameter."""
        return _meta(self.curves)

    @property
    def greedy_changes(self) -> np.ndarray | None:
        """How often actions changed [S, N], of Q(lambda) that learns its epsilon."""
        return self.curves.get(CHANGES)

    @property
    def episode_return(self) -> np.ndarray | None:
        """Mean return [S, N] of the episodes that ended, NaN where none did."""
        return self.curves.get(RETURN)

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


def pool(runs: list[Run]) -> list[Group]:
    """Pools the runs whose configurations say the same agent and environment.

    Raises:
        ConfigError: runs of a group have learned different hyper-parameters.
    """
    settings = by_setting(runs, NOT_OF_THE_GROUP, named=False)
    return [_pooled(label, members) for label, members in settings.items()]


def _pooled(label: str, members: list[Run]) -> Group:
    for run in members:
        if _meta(run.curves).keys() != _meta(members[0].curves).keys():
            raise ConfigError(
                f"{run.path} and {members[0].path} have one setting, but learned hyper-parameters "
                "of different names"
            )
    outrun = [run for run in members if _is_outrun(run, members)]
    members = [run for run in members if run not in outrun]
    end = min(run.end for run in members)
    coarsest = max((run.frames for run in members), key=spacing)
    grid = coarsest[coarsest <= end] if coarsest[0] <= end else np.asarray([end])
    each = [_on_grid(run, grid) for run in members]
    shared = [name for name in each[0] if all(name in curves for curves in each)]
    seeds = [seed for run in members for seed in run.seeds]
    rewards = np.concatenate([of_run[REWARD] for of_run in each])
    kept, repetitions = _samples(seeds, rewards)
    curves = {name: np.concatenate([of_run[name] for of_run in each])[kept] for name in shared}
    status = _status(members, int(grid[-1])) + repetitions
    if outrun:
        paths = ", ".join(run.folder for run in outrun)
        status += f"; left out, as others of its seeds go farther: {paths}"
    for name, values in _meta(curves).items():  # those points are left out of every mean
        if unknown := int((~np.isfinite(values)).any(1).sum()):
            status += f"; {name} is not always finite in {unknown} of {len(values)} seeds"
    return Group(label, members[0].config, status, grid, curves)


def _is_outrun(run: Run, members: list[Run]) -> bool:
    """Whether others go farther with all of its seeds: with it, all would end where it does."""
    reach = run.end + spacing(run.frames)
    return set(run.seeds) <= {seed for m in members if m.end > reach for seed in m.seeds}


def _samples(seeds: list[int], reward: np.ndarray) -> tuple[list[int], str]:
    """Rows of reward [S, N] without those that repeat the same seed's, and what is said of them."""
    kept: list[int] = []
    copies, again = [], []
    for index, seed in enumerate(seeds):
        before = [k for k in kept if seeds[k] == seed]
        copied = any(np.array_equal(reward[index], reward[k]) for k in before)
        if copied:
            copies.append(str(seed))
        elif before:
            again.append(str(seed))
        kept += [] if copied else [index]
    told = [("copies of seeds {} left out", copies), ("each run of seeds {} is a sample", again)]
    return kept, "".join(f"; {text.format(', '.join(of))}" for text, of in told if of)


def _meta(curves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(META): x for name, x in curves.items() if name.startswith(META)}


def by_world(groups: list[Group]) -> dict[str, list[Group]]:
    """Groups by `world`."""
    worlds = sorted({group.world for group in groups})
    return {world: [group for group in groups if group.world == world] for world in worlds}


def _on_grid(run: Run, grid: np.ndarray) -> dict[str, np.ndarray]:
    """Curves [S, N] at points that end at `grid` [N]: sums of rewards, means of all else."""
    count, edges = len(grid), np.concatenate([[0], grid])
    if np.array_equal(run.frames[:count], grid):
        return {name: values[:, :count] for name, values in run.curves.items()}
    return {
        name: (binned_sums if name == REWARD else binned_means)(run.frames, values, edges)
        for name, values in run.curves.items()
    }


def _status(members: list[Run], end: int) -> str:
    totals = [int(run.config.get("total_frames") or run.end) for run in members]
    reasons = []
    for run, total in zip(members, totals, strict=True):
        if not run.finished:
            reasons.append(f"{run.folder} is {run.status}")
        elif run.end + spacing(run.frames) < total:
            reasons.append(f"{run.folder} lacks its end")
        elif run.end < max(other.end for other in members):
            reasons.append(f"{run.folder} ends there")
    if not reasons:
        return "finished"
    return f"only to {end:,} of {max(totals):,} steps: {', '.join(reasons)}"


def caption(groups: list[Group]) -> str:
    """What the lines of groups of one world are, and which world."""
    counts = sorted({len(group.reward) for group in groups})
    seeds = f"mean and 95% interval of the mean over {span(counts)} seeds"
    return ("one seed" if counts == [1] else seeds) + f", {groups[0].world}"
