"""What runs of several seeds reach against inner steps K and bootstrap steps L."""

import itertools
import textwrap
from collections import Counter
from typing import Any

import numpy as np

from scripts.report.figures import draw_points, new_figure
from scripts.report.scores import Estimate
from scripts.report.seed_runs import Group, caption
from scripts.report.seed_statistics import mean_interval
from scripts.report.seed_table import inner_and_bootstrap_steps, reward_unit, totals
from scripts.report.sensitivity import final_returns


def draw_bootstrap_steps(groups: list[Group]) -> Any:
    """Success against K, a line for each L, and against L, a line for each K.

    Success is the return of the last tenth's episodes, where there are any, and else total reward.
    None unless two groups of an algorithm differ in K or L.
    """
    compared = _compared(groups)
    if not compared:
        return None
    end = min(int(group.frames[-1]) for group in compared)
    if all(group.episode_return is not None for group in compared):
        rewards = {group.label: mean_interval(final_returns(group, end)) for group in compared}
        measured = "episode return, last 10%"
    else:
        totalled = {group.label: mean_interval(totals(group, end)) for group in compared}
        unit, unit_name = reward_unit(max(abs(float(total.value)) for total in totalled.values()))
        rewards = {label: Estimate(*np.divide(total, unit)) for label, total in totalled.items()}
        measured = f"total reward{unit_name}"
    differ = [by for by in (0, 1) if len({inner_and_bootstrap_steps(g)[by] for g in compared}) > 1]
    figure, panels = new_figure(3.6, columns=len(differ), sharey=True)
    for axes, by in zip(panels[0], differ, strict=True):
        _draw_against(axes, _series(compared, by), by, rewards)
    panels[0, 0].set_ylabel(measured)
    title = textwrap.fill(f"after {end:,} steps: {caption(groups)}", 100)
    figure.suptitle(title, fontsize=9)
    return figure


def _draw_against(
    axes: Any, series: dict[str, list[Group]], by: int, rewards: dict[str, Estimate]
) -> None:
    """Rewards against K (`by` = 0) or L (1); points of the same value stand side by side."""
    every = [inner_and_bootstrap_steps(group)[by] for line in series.values() for group in line]
    width = np.log2(max(every) / min(every))
    placed: Counter[int] = Counter()
    for index, (label, line) in enumerate(series.items()):
        x = []
        for group in line:  # side by side, so that their error bars can be told apart
            steps = inner_and_bootstrap_steps(group)[by]
            x.append(steps * 2 ** (0.02 * width * (placed[steps] - (every.count(steps) - 1) / 2)))
            placed[steps] += 1
        draw_points(axes, x, [rewards[group.label] for group in line], label, index)
    ticks = sorted(set(every))
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, _apart(ticks, 0.08 * width))
    axes.minorticks_off()
    axes.margins(x=0.1)
    axes.set_xlabel(("inner steps K", "bootstrap steps L")[by])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), handlelength=3.5)


def _apart(ticks: list[int], width: float) -> list[str]:
    """Texts of ticks on a log2 axis, those within `width` of the one before a line lower."""
    texts = [str(ticks[0])]
    for before, tick in itertools.pairwise(ticks):
        lower = np.log2(tick / before) < width and not texts[-1].startswith("\n")
        texts.append(f"\n{tick}" if lower else str(tick))
    return texts


def _compared(groups: list[Group]) -> list[Group]:
    """Groups of algorithms whose groups differ in K or L, by algorithm, K and L."""
    by_algorithm: dict[str, list[Group]] = {}
    for group in groups:
        if None not in inner_and_bootstrap_steps(group):
            by_algorithm.setdefault(str(group.setting("agent.algorithm")), []).append(group)
    return [
        group
        for members in by_algorithm.values()
        if len(set(map(inner_and_bootstrap_steps, members))) > 1
        for group in sorted(members, key=inner_and_bootstrap_steps)
    ]


def _series(groups: list[Group], by: int) -> dict[str, list[Group]]:
    """Groups that differ only in K (`by` = 0) or L (1), under the name of what they share."""
    series: dict[str, list[Group]] = {}
    kinds = [(str(g.setting("agent.algorithm")), *inner_and_bootstrap_steps(g)) for g in groups]
    in_order = sorted(
        zip(groups, kinds, strict=True), key=lambda pair: (pair[1][0], pair[1][2 - by])
    )
    for group, kind in in_order:
        label = f"{kind[0]}, {'LK'[by]} = {kind[2 - by]}"
        if kinds.count(kind) > 1:  # something else differs, which its label says
            label = textwrap.fill(group.label, 32)
        series.setdefault(label, []).append(group)
    return series
