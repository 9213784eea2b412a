"""How much an agent depends on the value that a hyper-parameter starts from."""

import math
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from scripts.report.figures import draw_points, new_figure, span
from scripts.report.runs import shown
from scripts.report.scores import Estimate, aggregate
from scripts.report.seed_runs import Group
from scripts.report.seed_statistics import binned_means
from scripts.report.tables import rounded

_FEWEST = 2  # values, else there is nothing to see
_LAST = 0.1  # share of a run whose episodes count
_WIDE = 10.0  # ratio of values from which on the axis is logarithmic
_RNG_SEED = 0


class Sensitivity(NamedTuple):
    """One hyper-parameter: for each agent an aggregate at each value that it started from."""

    key: str
    # By algorithm (and name, where several agents have it) and value, which increases.
    lines: dict[str, dict[float, Estimate]]
    games: int
    seeds: list[int]  # numbers of seeds that points have, in all games together


def final_returns(group: Group, end: float | None = None) -> np.ndarray:
    """Mean return [S] of the episodes in the last tenth of the steps; NaN where none ended.

    Args:
        group: that has episodes.
        end: steps at which it is taken to end; None: all that it has.
    """
    assert group.episode_return is not None
    end = end or float(group.frames[-1])
    edges = np.array([(1 - _LAST) * end, end])
    return binned_means(group.frames, group.episode_return, edges)[:, 0]


def sensitivities(groups: list[Group]) -> list[Sensitivity]:
    """Those of each hyper-parameter of which agents in one world have several values.

    Of several that were varied, each is seen where the others have the value that most groups have.
    Returns are divided by the best mean that a group reaches in the game, so that games count
    alike; then the interquartile mean over games and seeds is taken.
    """
    groups = [group for group in groups if group.episode_return is not None]
    keys = sorted({key for group in groups for key in group.config if _is_start(key)})
    usual = {key: _usual([group.setting(key) for group in groups]) for key in keys}
    best: dict[str, float] = {}
    for group in groups:
        mean = float(np.nanmean(final_returns(group)))
        best[group.world] = max(best.get(group.world, 0.0), mean)
    found = []
    for key in keys:
        fixed = [other for other in keys if other != key]
        seen = [g for g in groups if all(g.setting(other) == usual[other] for other in fixed)]
        if agents := _by_agent(seen, key):
            found.append(_sensitivity(key, agents, best))
    return found


def _by_agent(groups: list[Group], key: str) -> dict[str, list[Group]]:
    """Groups of each agent that has several values of a key in the same world.

    An agent is an algorithm; where several groups of one have the same value in the same world, its
    name is told as well.
    """
    places = Counter((_algorithm(g), g.world, repr(g.setting(key))) for g in groups)
    several = {algorithm for (algorithm, *_), count in places.items() if count > 1}
    agents: dict[str, list[Group]] = {}
    for group in groups:
        label, name = _algorithm(group), shown(group.setting("name"))
        if label in several and name != label:
            label += f", {name}"
        agents.setdefault(label, []).append(group)
    for label, members in agents.items():
        by_world = {g.world: [o for o in members if o.world == g.world] for g in members}
        agents[label] = [g for g in members if len(_values(by_world[g.world], key)) >= _FEWEST]
    return {label: members for label, members in sorted(agents.items()) if members}


def _algorithm(group: Group) -> str:
    return str(group.setting("agent.algorithm"))


def _sensitivity(key: str, agents: dict[str, list[Group]], best: dict[str, float]) -> Sensitivity:
    lines: dict[str, dict[float, Estimate]] = {}
    seeds, worlds = set[int](), set[str]()
    for label, own in agents.items():
        worlds |= {group.world for group in own}
        points = {}
        for value in _values(own, key):
            there = [group for group in own if group.setting(key) == value]
            scores = [final_returns(group) / (best[group.world] or 1.0) for group in there]
            scores = [np.nan_to_num(of_game) for of_game in scores]
            points[value] = aggregate(scores, np.random.default_rng(_RNG_SEED))["IQM"]
            seeds.add(sum(map(len, scores)))
        lines[label] = points
    return Sensitivity(key, lines, len(worlds), sorted(seeds))


def _is_start(key: str) -> bool:
    """Whether a key is a value that a fixed agent keeps and a self-tuned one starts from."""
    if key == "agent.algorithm":
        return False
    return key == "learner.learning_rate" or key.startswith("agent.")


def _usual(values: list[Any]) -> Any:
    counts = Counter(map(repr, values))  # a stranger's value may be a list
    return max(values, key=lambda value: counts[repr(value)])


def _values(groups: list[Group], key: str) -> list[float]:
    """Its numbers, in order; none if it is no number."""
    given = [group.setting(key) for group in groups]
    return sorted({float(v) for v in given if type(v) in (int, float)})


def draw_sensitivity(sensitivity: Sensitivity) -> Any:
    """Final return against the starting value, a line for each agent."""
    key, lines = sensitivity.key, sensitivity.lines
    values = sorted({value for points in lines.values() for value in points})
    wide = values[0] > 0 and values[-1] / values[0] >= _WIDE
    figure, ((axes,),) = new_figure(3.6)
    for index, (algorithm, points) in enumerate(lines.items()):
        x = list(points) if wide else [values.index(v) for v in points]
        draw_points(axes, x, list(points.values()), algorithm, index)
    if wide:
        axes.set_xscale("log")
    axes.set_xticks(values if wide else range(len(values)), [f"{v:g}" for v in values])
    axes.minorticks_off()
    axes.set_xlabel(f"{key}: fixed, or where learning starts")
    axes.set_ylabel("final return / best of its game")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    runs = span(sensitivity.seeds)
    games = "one game" if sensitivity.games == 1 else f"{sensitivity.games} games"
    axes.set_title(f"interquartile mean and 95% interval, {runs} runs of {games} each", fontsize=9)
    axes.legend(handlelength=3.5)
    return figure


def sensitivity_rows(every: list[Sensitivity]) -> list[dict[str, Any]]:
    """A row for each point of each line, and its share of the line's best point."""
    rows = []
    for key, lines, *_ in every:
        for algorithm, points in lines.items():
            best = max(float(point.value) for point in points.values())
            best = best if best > 0 else math.nan  # of losses a share says nothing
            rows += [
                {
                    "hyper-parameter": key,
                    "start": value,
                    "algorithm": algorithm,
                    "IQM of return / best of its game": round(float(point.value), 4),
                    "95% low": round(float(point.low), 4),
                    "95% high": round(float(point.high), 4),
                    "share of its own best": rounded(float(point.value) / best, 3),
                }
                for value, point in points.items()
            ]
    return rows
