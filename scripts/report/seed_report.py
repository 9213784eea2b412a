"""Figures and tables of runs of several seeds: section 5.1 of Flennerhag et al. 2021."""

import itertools
import re
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scripts.report.figures import (
    LINE_OF_TEXT,
    MARKERS,
    STYLE,
    WIDTH,
    Written,
    files_of,
    label_steps,
    line_style,
    pyplot,
    save,
)
from scripts.report.seed_drawing import Curve, caption, draw_curve, finish, label_ends, new_figure
from scripts.report.seed_runs import Group, by_world
from scripts.report.seed_statistics import (
    Interval,
    bin_size,
    binned_means,
    cumulative,
    last_periods,
    mean_interval,
    mean_over_swaps,
    spacing,
    swap_steps,
    within_a_period,
)
from scripts.report.seed_table import inner_and_bootstrap_steps, table_rows, totals
from scripts.report.sensitivity import draw_sensitivity, sensitivities, sensitivity_rows
from scripts.report.tables import write_tables

_POINTS_DRAWN = 1_000
_BINS_DRAWN = 100
_MILLION = 1e6
_ACTIONS = 4  # of the grid world
_REST = "rest of epsilon"


def report_seeds(groups: list[Group], folder: Path, table: str) -> Written:
    """Draws all figures of `groups`, writes their table, and tells which were cut short.

    Groups of different worlds share no figure, and stand apart in the table.

    Args:
        groups: at least one.
        folder: exists.
        table: name of the table's files, without their endings.
    """
    for group in groups:
        if group.status != "finished":
            print(f"{group.label}: {group.status}")
    groups = sorted(groups, key=lambda group: -float(totals(group, int(group.frames[-1])).mean()))
    styles = {group.label: line_style(index) for index, group in enumerate(groups)}
    worlds, stems = by_world(groups), list[str]()
    with pyplot().rc_context(STYLE):
        for world, members in worlds.items():
            name = re.sub(r"[^\w.-]+", "_", world.replace("env.", ""))
            suffix = f"_{name}" if len(worlds) > 1 else ""
            stems += _draw_world(members, styles, folder, suffix)
        every = sensitivities(groups)
        for sensitivity in every:
            stems.append(f"sensitivity_{sensitivity.key.rpartition('.')[2]}")
            draw_sensitivity(sensitivity, folder / stems[-1])
    rows = table_rows([group for members in worlds.values() for group in members])
    tables, files = [("", rows)], [*files_of(stems), *write_tables(rows, folder, table)]
    if starts := sensitivity_rows(every):
        tables.append(("Sensitivity to starting values", starts))
        files += write_tables(starts, folder, "sensitivity")
    return Written(stems, tables, files)


def _draw_world(
    groups: list[Group], styles: dict[str, Any], folder: Path, suffix: str
) -> list[str]:
    """Draws all figures of groups of one world; returns their stems, which end with `suffix`."""
    if any(group.episode_return is not None for group in groups):
        stems = [f"episode_return{suffix}"]
        draw_returns(groups, styles, folder / stems[0])
    else:
        stems = [f"cumulative_reward{suffix}"]
        draw_cumulative(groups, styles, folder / stems[0])
    periods = sorted({group.period for group in groups if group.period})
    for period in periods:
        members = [group for group in groups if group.period == period]
        often = f"_every_{period}" if len(periods) > 1 else ""
        for name, draw in (("schedule", draw_schedule), ("after_swap", draw_after_swap)):
            if draw(members, styles, folder / f"{name}{often}{suffix}"):
                stems.append(f"{name}{often}{suffix}")
    if draw_bootstrap_steps(groups, folder / f"bootstrap_steps{suffix}"):
        stems.append(f"bootstrap_steps{suffix}")
    return stems


def draw_cumulative(groups: list[Group], styles: dict[str, Any], stem: Path) -> None:
    """Reward collected so far against steps, each line with its label at its end."""
    unit, unit_name = _unit(max(float(np.abs(cumulative(g.reward)).max()) for g in groups))
    longest = max(int(group.frames[-1]) for group in groups)
    curves = []
    for group in groups:
        kept = np.unique(np.linspace(0, len(group.frames) - 1, _POINTS_DRAWN).astype(int))
        interval = mean_interval(cumulative(group.reward)[:, kept] / unit)
        label = textwrap.fill(group.label, 32)
        if group.frames[-1] < 0.99 * longest:
            label += f"\n(to {group.frames[-1]:,} steps)"
        curves.append(Curve(label, styles[group.label], group.frames[kept], interval))
    lines = sum(1.3 + curve.label.count("\n") for curve in curves)
    figure, (axes,) = new_figure(max(3.6, lines * LINE_OF_TEXT + 0.8))
    for curve in curves:
        draw_curve(axes, curve)
    label_steps(axes, "environment steps")
    axes.set_xlim(0, longest)
    axes.set_ylabel(f"cumulative reward{unit_name}")
    axes.set_title(caption(groups), fontsize=9)
    label_ends(axes, curves)
    save(figure, stem)


def draw_returns(groups: list[Group], styles: dict[str, Any], stem: Path) -> None:
    """Learned hyper-parameters and the return of episodes, over the whole of training."""
    longest = max(int(group.frames[-1]) for group in groups)
    size = max(longest / _BINS_DRAWN, *(spacing(group.frames) for group in groups))
    edges = size * np.arange(round(longest / size) + 1)
    figure, axes = _draw_panels(_panels(groups, styles, edges, lambda group: np.zeros(1)))
    label_steps(axes[-1], f"environment steps (means of {size:,.0f} steps)")
    finish(figure, caption(groups), stem)


def draw_schedule(groups: list[Group], styles: dict[str, Any], stem: Path) -> bool:
    """Hyper-parameters and reward over the last four swap periods that all groups reach.

    Args:
        groups: of one swap period.
        styles: of each label.
        stem: the figure's path without its ending.

    Returns:
        Whether there was anything to draw.
    """
    period, spacings = groups[0].period or 1, [spacing(group.frames) for group in groups]
    ends = [int(group.frames[-1]) for group in groups]
    edges = last_periods(ends, spacings, period)
    if len(edges) < 3:
        return False
    if max(ends) - min(ends) > max(spacings):
        print(f"{stem.name}: only to {min(ends):,} of {max(ends):,} steps, as far as all groups go")
    panels = _panels(groups, styles, edges, lambda group: np.zeros(1))
    figure, axes = _draw_panels(panels)
    for panel in axes:
        for swap in np.arange(edges[0] or period, edges[-1], period):
            panel.axvline(swap, color="0.35", linewidth=0.8, zorder=1)
    size = f"means of {bin_size(spacings, period):,.0f} steps"
    what = "rewards swap" if groups[0].respawn else "actions change"
    label_steps(axes[-1], f"environment steps ({size}; vertical lines: {what})")
    finish(figure, caption(groups), stem)
    return True


def draw_after_swap(groups: list[Group], styles: dict[str, Any], stem: Path) -> bool:
    """As `draw_schedule`, over the steps since a swap: the mean of all but a run's first quarter.

    Args:
        groups: of one swap period.
        styles: of each label.
        stem: the figure's path without its ending.

    Returns:
        Whether there was anything to draw: some run has a swap behind it.
    """
    period = groups[0].period or 1

    def swaps(group: Group) -> np.ndarray:
        return swap_steps(float(group.frames[-1]), period)

    groups = [group for group in groups if len(swaps(group))]
    if not groups:
        return False
    size = bin_size([spacing(group.frames) for group in groups], period)
    panels = _panels(groups, styles, size * np.arange(round(period / size) + 1), swaps)
    figure, axes = _draw_panels(panels)
    axes[-1].set_xlim(0, None)
    label_steps(axes[-1], f"environment steps since the change (means of {size:,.0f} steps)")
    finish(figure, f"{caption(groups)}, over all swaps after the first quarter", stem)
    return True


def _panels(
    groups: list[Group],
    styles: dict[str, Any],
    edges: np.ndarray,
    starts: Callable[[Group], np.ndarray],
) -> dict[str, list[Curve]]:
    """Curves by what they show: each hyper-parameter that some group learns, then the reward.

    Below a learned epsilon stands where it would rest: p / (1 - 1/A), p the share of states whose
    greedy action changes on the way to the target.

    Args:
        groups: to draw.
        styles: of each label.
        edges: [B + 1] of bins.
        starts: environment steps of a group from which `edges` count; the mean over them is drawn.
    """
    names = sorted({name for group in groups for name in group.meta})
    names += [_REST] if any(group.greedy_changes is not None for group in groups) else []
    outcome = "reward per step" if groups[0].episode_return is None else "episode return"
    panels: dict[str, list[Curve]] = {name: [] for name in [*names, outcome]}
    middles = (edges[:-1] + edges[1:]) / 2
    for group in groups:
        bins = starts(group)[:, None] + edges
        reached = group.episode_return
        if reached is None:
            reached = group.reward / np.diff(group.frames, prepend=0)
        shown = group.meta | {outcome: reached}
        if group.greedy_changes is not None:
            shown[_REST] = group.greedy_changes / (1 - 1 / _ACTIONS)
        for name, values in shown.items():
            if group.period:
                values = within_a_period(group.frames, values, group.period)
            interval = mean_interval(mean_over_swaps(binned_means(group.frames, values, bins)))
            panels[name].append(Curve(group.label, styles[group.label], middles, interval))
    return panels


def _draw_panels(panels: dict[str, list[Curve]]) -> tuple[Any, list[Any]]:
    figure, axes = new_figure(2.0 * len(panels) + 0.4, rows=len(panels))
    for panel, (name, curves) in zip(axes, panels.items(), strict=True):
        for curve in curves:
            draw_curve(panel, curve)
        panel.set_ylabel(name.replace("_", " "))
        panel.margins(x=0.01)
    return figure, axes


def draw_bootstrap_steps(groups: list[Group], stem: Path) -> bool:
    """Total reward against K, a line for each L, and against L, a line for each K.

    Returns:
        Whether there was anything to draw: two groups of an algorithm that differ in K or L.
    """
    compared = _compared(groups)
    if not compared:
        return False
    end = min(int(group.frames[-1]) for group in compared)
    rewards = {group.label: mean_interval(totals(group, end)) for group in compared}
    unit, unit_name = _unit(max(abs(float(reward.mean)) for reward in rewards.values()))
    rewards = {label: Interval(*np.divide(reward, unit)) for label, reward in rewards.items()}
    differ = [by for by in (0, 1) if len({inner_and_bootstrap_steps(g)[by] for g in compared}) > 1]
    figure, panels = pyplot().subplots(
        1, len(differ), figsize=(WIDTH, 3.6), layout="constrained", sharey=True, squeeze=False
    )
    for axes, by in zip(panels[0], differ, strict=True):
        _draw_against(axes, _series(compared, by), by, rewards)
    panels[0, 0].set_ylabel(f"total reward{unit_name}")
    figure.suptitle(f"after {end:,} steps: {caption(groups)}", fontsize=9)
    save(figure, stem)
    return True


def _draw_against(
    axes: Any, series: dict[str, list[Group]], by: int, rewards: dict[str, Interval]
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
        mean, low, high = np.array([rewards[group.label] for group in line]).T
        axes.errorbar(
            x,
            mean,
            yerr=np.nan_to_num(np.stack([mean - low, high - mean])),
            marker=MARKERS[index % len(MARKERS)],
            capsize=3,
            label=label,
            **line_style(index),
        )
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


def _unit(largest: float) -> tuple[float, str]:
    return (_MILLION, " (millions)") if largest >= _MILLION / 10 else (1.0, "")
