"""Several learner processes that share a batch, as real processes on one machine."""

import signal
import socket

import jax
import numpy as np
import pytest

from tests.system.checkpoints import last_checkpoint
from tests.system.command import PATIENCE, bmg, read_metrics, read_summary, start, wait_for

_TRAIN = (
    *("train", "catch/impala", "actors.runtime=in_process", "actors.envs_per_actor=16"),
    *("logging.every_seconds=0.2", "logging.tensorboard=false"),
)


def _coordinator():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return f"localhost:{listener.getsockname()[1]}"


def _start_two(folder, *options):
    """Two learner processes, each with one actor that plays half of each batch."""
    options = (*_TRAIN, "actors.count=1", "learner.processes=2", *options)
    options = (*options, f"learner.coordinator={_coordinator()}", "--run-dir", folder)
    return [start(*options[:2], f"learner.process={i}", *options[2:]) for i in range(2)]


def _end(processes, status=0, within=PATIENCE):
    outputs = []
    for process in reversed(processes):  # what the first one says of another's end says little
        outputs.append(process.communicate(timeout=within))
        assert process.returncode == status, outputs


@pytest.mark.ci
def test_two_processes_learn_what_one_does(tmp_path):
    """Actors are numbered through the processes, so the experience is the same."""
    one, two = tmp_path / "one", tmp_path / "two"
    _end(_start_two(two, "total_frames=6000"))
    alone = bmg(*_TRAIN, "actors.count=2", "total_frames=6000", "--run-dir", one)
    assert alone.returncode == 0, alone.stderr
    (state, progress), (expected, expected_progress) = map(last_checkpoint, (two, one))
    # Each process remembers the games of its own actors; the first one's are in the checkpoint.
    recent, expected_recent = progress.pop("recent"), expected_progress.pop("recent")
    assert 0 < len(recent) <= len(expected_recent)
    assert progress == expected_progress
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


@pytest.mark.slow
def test_a_signal_for_one_ends_both_and_they_resume(tmp_path):
    folder = tmp_path / "run"
    processes = _start_two(folder, "total_frames=100000000")
    wait_for(lambda: len(read_metrics(folder)) >= 3, what="three lines of metrics")
    processes[1].send_signal(signal.SIGTERM)
    _end(processes, status=143, within=30)
    stopped = read_summary(folder)
    assert stopped["status"] == "interrupted"
    total = stopped["frames"] + 5_000
    _end(_start_two(folder, f"total_frames={total}", "--resume"))
    finished = read_summary(folder)
    assert finished["status"] == "finished"
    assert finished["frames"] >= total
    assert finished["learner_updates"] > stopped["learner_updates"]


@pytest.mark.ci
def test_when_one_is_killed_the_other_does_not_wait_for_it(tmp_path):
    folder = tmp_path / "run"
    processes = _start_two(folder, "total_frames=100000000")
    wait_for(lambda: len(read_metrics(folder)) >= 2, what="learning")
    processes[1].kill()
    processes[1].communicate()
    processes[0].communicate(timeout=120)
    assert processes[0].returncode not in (0, 143)
