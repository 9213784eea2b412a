"""Figures and tables of runs of several seeds: section 5.1 of Flennerhag et al. 2021."""

import itertools
import re
import textwrap
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from scripts.report.figures import (
    LINE_OF_TEXT,
    MARKERS,
    draw_band,
    label_steps,
    legend_above,
    line_style,
    new_figure,
    span,
)
from scripts.report.html import Section
from scripts.report.runs import difference_rows
from scripts.report.scores import Estimate
from scripts.report.seed_runs import NOT_OF_THE_GROUP, Group, by_world
from scripts.report.seed_statistics import (
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

_POINTS_DRAWN = 1_000
_BINS_DRAWN = 100
_MILLION = 1e6
_ACTIONS = 4  # of the grid world
_REST = "rest of epsilon"


class Curve(NamedTuple):
    """A line of a figure."""

    label: str
    style: dict[str, Any]
    x: np.ndarray  # [B]
    y: Estimate  # of [B]


def report_groups(section: Section, groups: list[Group], table: str) -> None:
    """Draws all figures of `groups`, writes their table, and notes which were cut short.

    Groups of different worlds share no figure, and stand apart in the table.

    Args:
        section: takes them.
        groups: at least one.
        table: name of the table's files, without their endings.
    """
    groups = sorted(groups, key=lambda group: -float(totals(group, int(group.frames[-1])).mean()))
    styles = {group.label: line_style(index) for index, group in enumerate(groups)}
    worlds = by_world(groups)
    for world, members in worlds.items():
        name = re.sub(r"[^\w.-]+", "_", world.replace("env.", ""))
        _report_world(section, members, styles, f"_{name}" if len(worlds) > 1 else "")
    every = sensitivities(groups)
    for sensitivity in every:
        name = f"sensitivity_{sensitivity.key.rpartition('.')[2]}"
        section.figure(draw_sensitivity(sensitivity), name)
    section.table("", table_rows([g for members in worlds.values() for g in members]), table)
    differing = difference_rows({g.label: g.config for g in groups}, NOT_OF_THE_GROUP)
    section.table("Keys in which they differ", differing, table.replace("table", "differences"))
    section.table("Sensitivity to starting values", sensitivity_rows(every), "sensitivity")
    section.notes += [f"{g.label}: {g.status}" for g in groups if g.status != "finished"]
    if len(worlds) > 1:
        section.notes.append(
            f"runs of {len(worlds)} worlds, {' and '.join(worlds)}: each has figures of its own, "
            "and totals are compared within a world only"
        )


def _report_world(
    section: Section, groups: list[Group], styles: dict[str, Any], suffix: str
) -> None:
    """Draws all figures of groups of one world; their names end with `suffix`."""
    if any(group.episode_return is not None for group in groups):
        section.figure(draw_returns(groups, styles), f"episode_return{suffix}")
    else:
        section.figure(draw_cumulative(groups, styles), f"cumulative_reward{suffix}")
    periods = sorted({group.period for group in groups if group.period})
    for period in periods:
        members = [group for group in groups if group.period == period]
        often = f"_every_{period}" if len(periods) > 1 else ""
        section.figure(draw_schedule(members, styles), f"schedule{often}{suffix}")
        section.figure(draw_after_swap(members, styles), f"after_swap{often}{suffix}")
    section.figure(draw_bootstrap_steps(groups), f"bootstrap_steps{suffix}")


# Each returns a figure, or None where there is nothing to draw.


def caption(groups: list[Group]) -> str:
    """What the lines of groups of one world are, and which world."""
    counts = sorted({len(group.reward) for group in groups})
    seeds = f"mean and 95% interval of the mean over {span(counts)} seeds"
    return ("one seed" if counts == [1] else seeds) + f", {groups[0].world}"


def draw_cumulative(groups: list[Group], styles: dict[str, Any]) -> Any:
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
    figure, ((axes,),) = new_figure(max(3.6, lines * LINE_OF_TEXT + 0.8))
    for label, style, x, y in curves:
        draw_band(axes, x, y, label, style)
    label_steps(axes, "environment steps")
    axes.set_xlim(0, longest)
    axes.set_ylabel(f"cumulative reward{unit_name}")
    axes.set_title(caption(groups), fontsize=9)
    _label_ends(axes, curves)
    return figure


def _label_ends(axes: Any, curves: list[Curve]) -> None:
    """Writes labels right of the axes, as near to the ends of their lines as none overlaps.

    Args:
        axes: with all lines drawn.
        curves: by their final values, largest first.
    """
    low, high = axes.get_ylim()
    line = LINE_OF_TEXT / (axes.figure.get_figheight() - 0.8)  # of the height of the axes
    heights = [line * (1.3 + curve.label.count("\n")) for curve in curves]
    places, top = [], 1.0
    for curve, height in zip(curves, heights, strict=True):
        end = (float(curve.y.value[-1]) - low) / (high - low)
        places.append(min(end, top - height / 2))
        top = places[-1] - height / 2
    bottom = 0.0
    for index in reversed(range(len(curves))):
        places[index] = max(places[index], bottom + heights[index] / 2)
        bottom = places[index] + heights[index] / 2
    for curve, place in zip(curves, places, strict=True):
        outside = {"transform": axes.transAxes, "clip_on": False}
        axes.plot([1.015, 1.085], [place, place], **curve.style, **outside)
        axes.text(1.1, place, curve.label, va="center", fontsize=8, **outside)


def draw_returns(groups: list[Group], styles: dict[str, Any]) -> Any:
    """Learned hyper-parameters and the return of episodes, over the whole of training."""
    longest = max(int(group.frames[-1]) for group in groups)
    size = max(longest / _BINS_DRAWN, *(spacing(group.frames) for group in groups))
    edges = size * np.arange(round(longest / size) + 1)
    figure, axes = _draw_panels(_panels(groups, styles, edges, lambda group: np.zeros(1)))
    label_steps(axes[-1], f"environment steps (means of {size:,.0f} steps)")
    return _finished(figure, caption(groups))


def draw_schedule(groups: list[Group], styles: dict[str, Any]) -> Any:
    """Hyper-parameters and reward over the last four swap periods that all groups reach."""
    period, spacings = groups[0].period or 1, [spacing(group.frames) for group in groups]
    ends = [int(group.frames[-1]) for group in groups]
    edges = last_periods(ends, spacings, period)
    if len(edges) < 3:
        return None
    panels = _panels(groups, styles, edges, lambda group: np.zeros(1))
    figure, axes = _draw_panels(panels)
    for panel in axes:
        for swap in np.arange(edges[0] or period, edges[-1], period):
            panel.axvline(swap, color="0.35", linewidth=0.8, zorder=1)
    size = f"means of {bin_size(spacings, period):,.0f} steps"
    what = "rewards swap" if groups[0].respawn else "actions change"
    label_steps(axes[-1], f"environment steps ({size}; vertical lines: {what})")
    cut = max(ends) - min(ends) > max(spacings)
    far = f"; only to {min(ends):,} steps, as far as all groups go" if cut else ""
    return _finished(figure, caption(groups) + far)


def draw_after_swap(groups: list[Group], styles: dict[str, Any]) -> Any:
    """As `draw_schedule`, over the steps since a swap: means of all but a run's first quarter."""
    period = groups[0].period or 1

    def swaps(group: Group) -> np.ndarray:
        return swap_steps(float(group.frames[-1]), period)

    groups = [group for group in groups if len(swaps(group))]
    if not groups:
        return None
    size = bin_size([spacing(group.frames) for group in groups], period)
    panels = _panels(groups, styles, size * np.arange(round(period / size) + 1), swaps)
    figure, axes = _draw_panels(panels)
    axes[-1].set_xlim(0, None)
    label_steps(axes[-1], f"environment steps since the change (means of {size:,.0f} steps)")
    return _finished(figure, f"{caption(groups)}, over all swaps after the first quarter")


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
    figure, axes = new_figure(2.0 * len(panels) + 0.4, len(panels), sharex=True)
    for panel, (name, curves) in zip(axes[:, 0], panels.items(), strict=True):
        for label, style, x, y in curves:
            draw_band(panel, x, y, label, style)
        panel.set_ylabel(name.replace("_", " "))
        panel.margins(x=0.01)
    return figure, list(axes[:, 0])


def _finished(figure: Any, title: str) -> Any:
    legend_above(figure, figure.axes[-1])
    figure.axes[0].set_title(title, fontsize=9)
    figure.align_ylabels()
    return figure


def draw_bootstrap_steps(groups: list[Group]) -> Any:
    """Total reward against K, a line for each L, and against L, a line for each K.

    None unless two groups of an algorithm differ in K or L.
    """
    compared = _compared(groups)
    if not compared:
        return None
    end = min(int(group.frames[-1]) for group in compared)
    rewards = {group.label: mean_interval(totals(group, end)) for group in compared}
    unit, unit_name = _unit(max(abs(float(reward.value)) for reward in rewards.values()))
    rewards = {label: Estimate(*np.divide(reward, unit)) for label, reward in rewards.items()}
    differ = [by for by in (0, 1) if len({inner_and_bootstrap_steps(g)[by] for g in compared}) > 1]
    figure, panels = new_figure(3.6, columns=len(differ), sharey=True)
    for axes, by in zip(panels[0], differ, strict=True):
        _draw_against(axes, _series(compared, by), by, rewards)
    panels[0, 0].set_ylabel(f"total reward{unit_name}")
    figure.suptitle(f"after {end:,} steps: {caption(groups)}", fontsize=9)
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
