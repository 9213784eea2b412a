"""Figures and tables of runs of several seeds: section 5.1 of Flennerhag et al. 2021."""

import re
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from scripts.report.bootstrap_steps import draw_bootstrap_steps
from scripts.report.figures import (
    LINE_OF_TEXT,
    draw_band,
    label_steps,
    legend_above,
    line_style,
    new_figure,
    places_apart,
    titled,
)
from scripts.report.html import Section
from scripts.report.scores import Estimate
from scripts.report.seed_runs import NOT_OF_THE_GROUP, Group, by_world, caption
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
from scripts.report.seed_table import reward_unit, table_rows, totals
from scripts.report.sensitivity import (
    draw_sensitivity,
    final_returns,
    sensitivities,
    sensitivity_rows,
)
from scripts.report.settings import difference_rows

_POINTS_DRAWN = 1_000
_BINS_DRAWN = 100
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
    groups = sorted(groups, key=_success, reverse=True)
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


def _success(group: Group) -> float:
    """What a group is ranked by: the final return of its episodes; without these, total reward."""
    if group.episode_return is None:
        return float(totals(group, int(group.frames[-1])).mean())
    mean = float(mean_interval(final_returns(group)).value)
    return mean if np.isfinite(mean) else -np.inf


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


def draw_cumulative(groups: list[Group], styles: dict[str, Any]) -> Any:
    """Reward collected so far against steps, each line with its label at its end."""
    unit, unit_name = reward_unit(max(float(np.abs(cumulative(g.reward)).max()) for g in groups))
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
    titled(axes, caption(groups))
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
    ends = [(float(curve.y.value[-1]) - low) / (high - low) for curve in curves]
    places = places_apart(ends, heights)
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
    titled(figure.axes[0], title)
    figure.align_ylabels()
    return figure
