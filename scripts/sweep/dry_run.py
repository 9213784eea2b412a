"""`bmg sweep --dry-run`: what a sweep would run, and for how long."""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.sweep import Sweep
from learner.reading import read_metrics
from scripts.check import RunFailed
from scripts.output import say
from scripts.signals import interrupt
from scripts.sweep.plan import MEASURING, Planned
from scripts.sweep.trials import child  # nothing may interrupt this import, of Ray

_MEASURE_LINES = 8  # of metrics, after which the speed of a run is known well enough
_MEASURE_SECONDS = 150.0


def list_trials(plan: Sweep, planned: list[Planned]) -> None:
    """Lists the trials, and estimates how long they take from a short run of each variant."""
    interrupt()
    for trial, config in planned:
        say(f"{trial.name}: {trial.source}, {config.seeds * config.total_frames:,} frames")
    frames = sum(config.seeds * config.total_frames for _, config in planned)
    print(f"{len(planned)} trials, {frames:,} frames", flush=True)
    node_cpus = float(os.cpu_count() or 1)
    cpus = plan.config.resources.cpus or max(trial.cpus for trial in planned)
    cpus = min(node_cpus, cpus)
    at_once = max(1, int(node_cpus // cpus))
    seconds, unknown = 0.0, list[str]()
    for variant in dict.fromkeys(trial.variant for trial, _ in planned):
        members = [item for item in planned if item.trial.variant == variant]
        rate = _measure(members[0], max(1, int(cpus)), plan.config.resources.gpus > 0)
        if rate is None:
            unknown.append(variant)
            print(f"{variant}: unknown, no update in {_MEASURE_SECONDS:g} s", flush=True)
            continue
        total = sum(config.seeds * config.total_frames for _, config in members)
        shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        print(f"{variant}: {shown} frames/s alone on this machine", flush=True)
        seconds += total / rate
    hours = seconds / 3600 / at_once
    beside = f", and the unknown time of {', '.join(unknown)}," if unknown else ""
    print(
        f"about {hours:,.1f} hours{beside} on this machine ({cpus:g} CPUs for each trial, "
        f"{at_once} at once, if none slows another down); divide by the number of such machines"
    )


def _measure(planned: Planned, threads: int, gpu: bool) -> float | None:
    """Frames a second of a trial in its first half minute; None if it has not learned by then.

    Raises:
        RunFailed: it does not run.
    """
    with tempfile.TemporaryDirectory() as temporary:
        run, log = Path(temporary) / "run", Path(temporary) / "log"
        arguments = ["train", planned.source, *planned.trial.overrides, *MEASURING]
        lines: Sequence[dict[str, Any]] = []
        ended = False
        with (
            log.open("w") as output,
            child([*arguments, "--run-dir", str(run)], Path.cwd(), threads, gpu, output) as process,
        ):
            deadline = time.monotonic() + _MEASURE_SECONDS
            while len(lines) < _MEASURE_LINES and time.monotonic() < deadline:
                time.sleep(0.5)
                lines, _ = read_metrics(run)
                if ended := process.poll() is not None:
                    break
        lines, _ = read_metrics(run)  # the last one is written when it is ended
        rate = _frames_per_second(lines, planned.config.seeds)
        if rate is None and ended:
            said = (log.read_text().strip().splitlines() or ["nothing"])[-1]
            raise RunFailed(f"{planned.trial.name} could not be measured: {said}")
    return rate


def _frames_per_second(lines: Sequence[dict[str, Any]], seeds: int) -> float | None:
    """Speed of all seeds by a run's metrics, compilation left out where they are lines enough.

    Of a run so slow that it has one line, it is what it did from its start on.
    """
    if not lines:
        return None
    first = lines[len(lines) // 2 - 1] if len(lines) > 1 else {"frames": 0, "seconds": 0.0}
    frames = lines[-1]["frames"] - first["frames"]
    seconds = lines[-1]["seconds"] - first["seconds"]
    return seeds * frames / seconds if frames > 0 and seconds > 0 else None
