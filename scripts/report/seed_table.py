"""The table of runs of several seeds."""

from typing import Any

import numpy as np

from scripts.report.seed_runs import Group
from scripts.report.seed_statistics import (
    binned_sums,
    mean_interval,
    rise_after_swap,
    spacing,
    swap_steps,
)
from scripts.report.sensitivity import final_returns
from scripts.report.tables import rounded

# Total reward after 10M steps with swaps every 100,000, where a collection places all anew: mean,
# standard deviation over 10 seeds, and of what. Luketina et al., CoLLAs 2022, table 1.
_PUBLISHED = {
    "actor_critic": (1.24e6, 0.09e6, "best fixed entropy cost"),
    "mg": (1.58e6, 0.06e6, "reward context"),
    "bmg": (1.74e6, 0.03e6, "reward context"),
    "q_lambda": (0.58e6, 0.07e6, "best fixed epsilon"),
    "q_lambda_bmg": (1.93e6, 0.03e6, "reward context"),
}
_PUBLISHED_WITHOUT_CONTEXT = {
    "mg": (1.29e6, 0.08e6, "no context"),
    "bmg": (1.32e6, 0.08e6, "no context"),
    "q_lambda_bmg": (1.78e6, 0.03e6, "no context"),
}
_SOURCE = "published total (std): Luketina et al. 2022"
_PUBLISHED_FRAMES, _PUBLISHED_PERIOD, _PUBLISHED_RESPAWN = 10_000_000, 100_000, "all"

_MILLION = 1e6
_OF_EPISODES = ("episode return, last 10%", "95% low of it", "95% high of it")


def table_rows(groups: list[Group]) -> list[dict[str, Any]]:
    """A row for each group; None where a column means nothing for it."""
    rows = [_row(group) for group in groups]
    for column in ("respawn", "swap period", "epsilon", _SOURCE, *_OF_EPISODES):
        if all(row[column] is None for row in rows):
            for row in rows:
                del row[column]
    return rows


def _row(group: Group) -> dict[str, Any]:
    end = float(group.frames[-1])
    total = totals(group, end)
    interval = mean_interval(total)
    inner, bootstrap = inner_and_bootstrap_steps(group)
    algorithm = str(group.setting("agent.algorithm"))
    explores = "epsilon" if algorithm.startswith("q_lambda") else "entropy_cost"
    fixed = None if group.meta else group.setting(f"agent.{explores}")
    tenth = binned_sums(group.frames, group.reward, np.array([0.9 * end, end])) / (0.1 * end)
    return {
        "group": group.label,
        "algorithm": algorithm,
        "respawn": group.respawn,
        "swap period": group.period,
        "K": inner,
        "L": bootstrap,
        "entropy cost": fixed if explores == "entropy_cost" else None,
        "epsilon": fixed if explores == "epsilon" else None,
        "seeds": len(total),
        "steps": int(end),
        "total reward": _number(interval.value),
        "95% low": _number(interval.low),
        "95% high": _number(interval.high),
        "total reward std": _number(total.std(ddof=1)) if len(total) > 1 else None,
        _SOURCE: _published(group),
        "reward per step, last 10%": _number(tenth.mean()),
        **dict(zip(_OF_EPISODES, _last_returns(group), strict=True)),
        "rise after swap": _rise(group),
        "status": group.status,
    }


def _last_returns(group: Group) -> tuple[float | None, float | None, float | None]:
    """Mean return of the episodes of the last tenth, and its interval over seeds."""
    if group.episode_return is None:
        return None, None, None
    interval = mean_interval(final_returns(group))
    return _number(interval.value), _number(interval.low), _number(interval.high)


def _rise(group: Group) -> float | str | None:
    """Of the one hyper-parameter, or of each with its name."""
    if not group.period:
        return None
    swaps = swap_steps(float(group.frames[-1]), group.period)
    rises = {
        n: rise_after_swap(group.frames, v, swaps, group.period) for n, v in group.meta.items()
    }
    known = {name: _number(rise) for name, rise in rises.items() if rise is not None}
    if len(group.meta) > 1:
        return ", ".join(f"{name} {rise}" for name, rise in known.items()) or None
    return next(iter(known.values()), None)


def _published(group: Group) -> str | None:
    """The published total, where the run is of that world, as long and swaps as often.

    The one of plain meta-gradients is with their regulariser, without which they collapse.
    """
    algorithm = str(group.setting("agent.algorithm"))
    without = group.meta and group.setting("meta.context_length") == 0
    known = (_PUBLISHED_WITHOUT_CONTEXT if without else _PUBLISHED).get(algorithm)
    unregularised = algorithm == "mg" and group.setting("meta.outer.entropy_cost") == 0.0
    as_published = (
        not unregularised
        and group.setting("total_frames") == _PUBLISHED_FRAMES
        and group.period == _PUBLISHED_PERIOD
        and group.respawn == _PUBLISHED_RESPAWN
        and group.frames[-1] + spacing(group.frames) > _PUBLISHED_FRAMES
    )
    if known is None or not as_published:
        return None
    return f"{known[0]:.0f} ({known[1]:.0f}), {known[2]}"


def _number(value: Any) -> float | None:
    """Four decimals, of which large numbers keep none."""
    return round(float(value)) if 1_000 <= abs(value) < np.inf else rounded(value, 4)


def totals(group: Group, end: float) -> np.ndarray:
    """Reward of each seed [S] in the first `end` steps."""
    return binned_sums(group.frames, group.reward, np.array([0, end]))[:, 0]


def inner_and_bootstrap_steps(group: Group) -> tuple[Any, Any]:
    """K and L; None where nothing is learned but the parameters."""
    if not group.meta:
        return None, None
    return group.setting("meta.inner_steps"), group.setting("meta.bootstrap_steps")


def reward_unit(largest: float) -> tuple[float, str]:
    """What rewards are divided by in figures, and how that is called."""
    return (_MILLION, " (millions)") if largest >= _MILLION / 10 else (1.0, "")
