"""`bmg bench --budget`: stages in order of importance, each told as soon as it is known.

For machines that are at hand for minutes only. What no longer fits is not begun, and nothing is
compiled that is not measured.
"""

import json
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from scripts.bench.machine import machine


class Stage(NamedTuple):
    """A measurement that stands for itself."""

    name: str
    seconds: float  # that it takes at least, without compilation
    measure: Callable[[float], dict[str, Any]]  # from the seconds that are left to its results


def bench_within(budget: float, facts: dict[str, Any], stages: Iterable[Stage]) -> int:
    """Prints a JSON line for each stage, measured or not.

    A stage cannot be interrupted while it compiles; so it is begun only where as much time is
    left as compiling has taken for another stage, beside its own.

    Args:
        budget: seconds for everything.
        facts: of the configuration, for the first line.
        stages: the most important one first; they are made when their turn comes.
    """
    began, compiling = time.monotonic(), 0.0

    def tell(**values: Any) -> None:
        print(json.dumps(values), flush=True)

    tell(**facts, **machine(), budget=budget)
    for stage in stages:
        start = time.monotonic()
        left = budget - (start - began)
        needed = stage.seconds + compiling
        if left < needed:
            tell(
                stage=stage.name,
                skipped=f"{max(0.0, left):.0f} s are left, and it takes {needed:.0f}",
            )
            continue
        results = stage.measure(left - compiling)
        took = time.monotonic() - start
        compiling = max(compiling, took - results.pop("seconds_measured"))
        tell(stage=stage.name, took_seconds=round(took, 1), **results)
    return 0
