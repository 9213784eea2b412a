"""`bmg bench --budget`: stages in order of importance, each told as soon as it is known.

For machines that are at hand for minutes only. What no longer fits is not begun, and nothing is
compiled that is not measured.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from configs.load import ConfigError
from scripts.bench.machine import machine


class Stage(NamedTuple):
    """A measurement that stands for itself."""

    name: str
    seconds: float  # that it takes at least, without compilation
    measure: Callable[[float], dict[str, Any]]  # from the seconds that are left to its results


def chosen(stages: Sequence[Stage], wanted: Sequence[str]) -> list[Stage]:
    """The stages of these names, in the order of the names; all of them if there are none.

    Raises:
        ConfigError: there is no stage of a name.
    """
    by_name = {stage.name: stage for stage in stages}
    if unknown := [name for name in wanted if name not in by_name]:
        raise ConfigError(f"--stages: no stage {unknown[0]!r}; there are {', '.join(by_name)}")
    return [by_name[name] for name in wanted] or [*stages]


def bench_within(
    budget: float, began: float, facts: dict[str, Any], stages: Sequence[Stage]
) -> int:
    """Prints a JSON line for each stage, measured or not.

    A stage cannot be interrupted while it compiles; so it is begun only where as much time is
    left as compiling has taken for another stage, beside its own.

    Args:
        budget: seconds for everything.
        began: when it began, on the monotonic clock.
        facts: of the configuration, for the first line.
        stages: the most important one first.
    """
    compiling = 0.0

    def tell(**values: Any) -> None:
        print(json.dumps(values), flush=True)

    tell(**facts, **machine(), budget=budget)
    for stage in stages:
        start = time.monotonic()
        left = budget - (start - began)
        needed = stage.seconds + compiling
        if left < needed:
            left = max(0.0, left)
            tell(stage=stage.name, skipped=f"{left:.0f} s are left, and it takes {needed:.0f}")
            continue
        results = stage.measure(left - compiling)
        took = time.monotonic() - start
        compiling = max(compiling, took - results.pop("seconds_measured"))
        tell(stage=stage.name, took_seconds=round(took, 1), **results)
    return 0
