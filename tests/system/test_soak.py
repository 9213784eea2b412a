"""Twenty bad minutes: actors are killed all the time, and the learner three times.

`BMG_SOAK_RESULT=FILE uv run pytest -n 0 -m slow tests/system/test_soak.py` keeps the figures.
"""

import itertools
import json
import os
import random
import signal
import statistics
import time
from pathlib import Path

import psutil
import pytest

from tests.system.command import read_metrics, read_summary, start, wait_for

_MINUTES = 20
_UNDISTURBED_SECONDS = 300
_BETWEEN_KILLS = 15.0
_BATCH = 8 * 20  # steps
_TRAIN = (
    *(
        "train",
        "atari/quickstart",
        "env.game=breakout",
        "actors.count=4",
        "actors.envs_per_actor=4",
    ),
    *("total_frames=1000000000", "checkpoint.every_seconds=30", "logging.every_seconds=5"),
)


def _shared_memory():
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}


def _family(pid):
    """A process's descendants, which may end meanwhile."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _actors(pid):
    found = []
    for process in _family(pid):
        try:
            if "ray::UnrollServer" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _stop(process):
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors


def _undisturbed(folder):
    """Frames a second of the whole run, its start included."""
    began = time.monotonic()
    process = start(*_TRAIN, "--run-dir", folder)
    time.sleep(_UNDISTURBED_SECONDS)
    _stop(process)
    return read_summary(folder)["frames"] / (time.monotonic() - began)


def _disturbed(folder, seen):
    """The same with faults; counts the killed, and collects all processes in `seen`."""
    random_actor = random.Random(0)
    began = time.monotonic()
    learner_dies = [began + _MINUTES * 60 * quarter / 4 for quarter in (1, 2, 3)]
    process, killed, lost = start(*_TRAIN, "--run-dir", folder), 0, []
    for tick in itertools.count(1):
        time.sleep(max(0.0, began + tick * _BETWEEN_KILLS - time.monotonic()))
        assert process.poll() is None, process.communicate()
        seen |= set(_family(process.pid))
        now = time.monotonic()
        if now >= began + _MINUTES * 60:
            break
        if learner_dies and now >= learner_dies[0]:
            learner_dies.pop(0)
            process.kill()
            process.communicate()
            before = read_metrics(folder)[-1]["frames"]
            lost.append(before - read_summary(folder)["frames"])
            process = start(*_TRAIN, "--run-dir", folder, "--resume")
        elif actors := _actors(process.pid):
            random_actor.choice(actors).kill()
            killed += 1
    _stop(process)
    return {
        "frames_per_second": read_summary(folder)["frames"] / (time.monotonic() - began),
        "actors_killed": killed,
        "frames_lost_with_the_learner": lost,
    }


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_twenty_bad_minutes(tmp_path):
    shared_memory = _shared_memory()
    undisturbed = _undisturbed(tmp_path / "undisturbed")
    folder, seen = tmp_path / "run", set()
    result = {"minutes": _MINUTES, "undisturbed_frames_per_second": undisturbed}
    result |= _disturbed(folder, seen)
    result["ratio"] = result["frames_per_second"] / undisturbed

    metrics = read_metrics(folder)
    summary = read_summary(folder)
    frames = [line["frames"] for line in metrics]
    assert frames == sorted(set(frames))
    assert summary["frames"] == 4 * summary["env_steps"]
    # All steps of all batches but those in which an environment only began a new episode.
    steps = _BATCH * summary["learner_updates"]
    assert 0.97 * steps < summary["env_steps"] <= steps

    quarter = len(metrics) // 4
    memory = [line["memory/total_mb"] for line in metrics]
    result["memory_mb_second_quarter"] = statistics.median(memory[quarter : 2 * quarter])
    result["memory_mb_last_quarter"] = statistics.median(memory[-quarter:])
    result["restarts_in_the_last_start"] = metrics[-1]["actors/restarts"]
    result |= {key: summary[key] for key in ("frames", "learner_updates", "episode_return")}
    if file := os.environ.get("BMG_SOAK_RESULT"):
        Path(file).write_text(json.dumps(result, indent=2) + "\n")

    assert result["actors_killed"] >= _MINUTES * 60 / _BETWEEN_KILLS - 10
    _, alive = psutil.wait_procs(seen, timeout=120)
    assert not alive
    wait_for(lambda: _shared_memory() <= shared_memory, what="shared memory is given back")
    assert result["memory_mb_last_quarter"] < 1.1 * result["memory_mb_second_quarter"]
    assert result["ratio"] >= 0.8, result
