"""docs/recipes: each file runs as it stands there."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

import bmg
from tests.system.checkpoints import equal, last_checkpoint
from tests.system.command import PATIENCE, ROOT, read_metrics, read_summary, wait_for

RECIPES = ROOT / "docs" / "recipes"
_SHORT = {
    "actors": {"runtime": "in_process", "count": 1},
    "logging.tensorboard": False,
    "checkpoint.keep": 2,
    "learner.learning_rate_schedule": "constant",
}


def _recipe(name):
    """Imported by its path, as it would be by whoever copies it."""
    specification = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_page_names_each_file_that_is_there():
    page = (RECIPES / "README.md").read_text()
    files = {path.name for path in RECIPES.iterdir() if path.suffix == ".py"}
    assert set(re.findall(r"^\| \[([a-z_]+\.py)\]", page, re.MULTILINE)) == files


def test_an_environment_with_arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(RECIPES)
    monkeypatch.setattr(sys, "path", [*sys.path])
    game = "environment_with_arguments:DryLake-v0"
    env = {"suite": "gymnasium", "game": game}
    run = bmg.train("catch/impala", tmp_path / "run", env=env, total_frames=700, **_SHORT)
    assert run.summary["status"] == "finished"
    assert run.summary["protocol"]["game"] == game
    probabilities = {}
    for name in ("DryLake", "SlipperyLake8"):
        made = gymnasium.make(f"environment_with_arguments:{name}-v0")
        probabilities[name] = made.unwrapped.P[0][1][0][0]
        assert made.observation_space.n == (64 if "8" in name else 16)
    assert probabilities["DryLake"] == 1.0 > probabilities["SlipperyLake8"]


def test_a_run_that_went_through_object_storage_goes_on_bit_for_bit(tmp_path):
    copy = _recipe("object_storage").copy
    here, there, whole = tmp_path / "here", tmp_path / "there", tmp_path / "whole"
    storage = "memory://bucket/runs/here"
    bmg.train("catch/impala", here, total_frames=1_500, **_SHORT)
    (here / "stale").touch()
    copy(str(here), storage)
    (here / "stale").unlink()
    copy(str(here), storage)
    copy(storage, str(there))
    assert _files(there) == _files(here)
    bmg.train("catch/impala", there, total_frames=3_000, **_SHORT)
    bmg.train("catch/impala", whole, total_frames=3_000, **_SHORT)
    (state, progress), (expected, expected_progress) = map(last_checkpoint, (there, whole))
    assert progress == expected_progress
    assert equal(state, expected)


def _files(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.ci
def test_a_job_of_an_array_that_is_preempted_is_queued_again_and_goes_on(tmp_path):
    """With the signal that submitit has Slurm send, by the executor that it has for one machine."""
    (tmp_path / "small.yaml").write_text(
        "{base: catch/impala, total_frames: 100000, actors: {runtime: in_process, count: 1},"
        " logging: {tensorboard: false, every_seconds: 0.2}, checkpoint: {every_seconds: 1000}}"
    )
    jobs = subprocess.Popen(
        [sys.executable, RECIPES / "slurm_array.py", "array", "small.yaml"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    runs = [tmp_path / "array" / f"small.yaml-{seed}" for seed in (0, 1)]
    wait_for(lambda: jobs.poll() or len(read_metrics(runs[0])) >= 2, what="two lines of metrics")
    assert jobs.poll() is None, "the jobs have failed"
    (process,) = (
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _holds(entry, runs[0] / ".lock")
    )
    os.kill(process, signal.SIGUSR2)
    wait_for(lambda: read_summary(runs[0])["status"] == "interrupted", what="a checkpoint")
    learned = read_summary(runs[0])["frames"]
    assert learned < 100_000, "it was finished before the signal"
    told, _ = jobs.communicate(timeout=PATIENCE)
    assert [line.split()[1] for line in told.splitlines()] == ["finished", "finished"]
    frames = [line["frames"] for line in read_metrics(runs[0])]
    assert frames == sorted(set(frames))
    assert learned in frames


def _holds(process, file):
    try:
        return any(os.path.samefile(link, file) for link in (process / "fd").iterdir())
    except OSError:  # it has ended, or is another user's
        return False
