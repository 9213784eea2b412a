"""`bmg train --profile`: a trace that a browser opens, of a run that nothing else has changed."""

import gzip
import json
import subprocess

import numpy as np
import pytest

import bmg as python
from scripts import profiling
from scripts.train import train
from tests.system.checkpoints import equal, last_checkpoint
from tests.system.command import bmg, read_summary
from tests.system.test_nothing_lost import disk  # noqa: F401

CATCH = ("logging.tensorboard=false", "actors.count=1", "checkpoint.keep=1")
IN_PROCESS = (*CATCH, "actors.runtime=in_process", "learner.learning_rate_schedule=constant")


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """Training leaves none of its handlers of signals; traces are short, to be written quickly."""
    monkeypatch.setattr(profiling, "_STEPS", 2)
    monkeypatch.setattr(profiling, "_SECONDS", 0.1)
    with python._signals_kept():
        yield


def _events(folder, update):
    """Those of a trace, which Perfetto and Chrome read as an object of `traceEvents` alone."""
    with gzip.open(folder / "profile" / f"update-{update}" / "trace.json.gz") as file:
        trace = json.load(file)
    assert set(trace) == {"displayTimeUnit", "traceEvents"}
    return [event for event in trace["traceEvents"] if event.get("ph") == "X"]


def _require_learner(events, module, most_steps=2):
    """Operations of the learner's program, within the time of its steps; and the loop's own."""
    operations = [e for e in events if e.get("args", {}).get("hlo_module") == module]
    assert len({event["args"]["hlo_op"] for event in operations}) > 10
    starts = [event["ts"] for event in events if event["name"] == "start step"]
    assert 1 <= len(starts) <= most_steps
    assert all(event["ts"] >= min(starts) for event in operations)
    return {event["name"] for event in events}


def test_a_resumed_run_in_process_is_traced_and_ends_as_an_undisturbed_one(tmp_path, capsys):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    assert train("catch/impala", [*IN_PROCESS, "total_frames=2000"], str(folder), False) == 0
    resumed = [*IN_PROCESS, "total_frames=16000"]
    assert train(None, resumed[-1:], str(folder), True, profile=True) == 0
    assert f"profile: {folder}/profile/update-6/trace.json.gz (for https" in capsys.readouterr().out
    names = _require_learner(_events(folder, 6), "jit_step")
    assert {"wait for batch", "wait for step"} <= names
    assert train("catch/impala", resumed, str(whole), False) == 0
    assert not (whole / "profile").exists()
    (state, progress), (expected, expected_progress) = map(last_checkpoint, (folder, whole))
    assert progress["frames"] == expected_progress["frames"] >= 16_000
    assert equal(state, expected)


def test_a_step_on_the_device_is_traced_for_a_second_at_most(tmp_path):
    words = ["seeds=1", "total_frames=2000", "logging.tensorboard=false"]
    assert train("two_colours/actor_critic", words, str(tmp_path / "run"), False, profile=True) == 0
    (traced,) = (tmp_path / "run" / "profile").iterdir()
    events = _events(tmp_path / "run", traced.name.removeprefix("update-"))
    _require_learner(events, "jit_over_seeds")


@pytest.mark.ci
def test_a_learner_of_ray_actors_is_traced(tmp_path):
    folder = tmp_path / "run"
    run = ("train", "catch/impala", *CATCH, "total_frames=30000", "--run-dir", folder)
    result = bmg(*run, "--profile")
    assert result.returncode == 0, result.stderr
    assert f"profile: {folder}/profile/update-2/trace.json.gz" in result.stdout
    # Ten, and those that begin before a busy machine has woken the thread that ends the trace.
    assert "wait for batch" in _require_learner(_events(folder, 2), "jit_step", 20)


def test_what_costs_the_trace_does_not_cost_the_run(tmp_path, disk, caplog):  # noqa: F811
    """A full disk, a file in its place, a run that is too short."""
    folder = tmp_path / "run"
    assert train("catch/impala", [*IN_PROCESS, "total_frames=600"], str(folder), False) == 0
    place = folder / "profile"

    def goes_on_with(warning, frames):
        caplog.clear()
        assert train(None, [f"total_frames={frames}"], str(folder), True, profile=True) == 0
        (told,) = (record.message for record in caplog.records)
        assert told.startswith(f"no profile: {warning}")
        assert read_summary(folder)["status"] == "finished"
        assert warning in (folder / "log.txt").read_text()

    place.symlink_to(disk)
    subprocess.run(["mount", "-o", "remount,size=64k", disk], check=True)
    goes_on_with("No space left on device; the run goes on", 12_000)
    assert list(disk.iterdir()) == []
    place.unlink()
    place.touch()
    goes_on_with(f"NotADirectoryError: [Errno 20] Not a directory: '{place}/", 14_000)
    place.unlink()
    goes_on_with("the run ended before the learner's step 3", 14_500)
    assert np.isfinite(read_summary(folder)["loss/total"])
