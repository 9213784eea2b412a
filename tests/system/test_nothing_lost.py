"""Nothing that was learned is lost: odd folders, edited files, divergence, a full disk."""

import contextlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax.numpy as jnp
import pytest

from actors.ray_folder import ray_folder
from configs.load import load
from learner.loop import Progress
from scripts.check import RunFailed
from scripts.display import NoDisplay
from scripts.record import Record
from tests.system.command import bmg, read_metrics, read_summary, start, wait_for

CATCH = (
    *("train", "catch/impala", "actors.runtime=in_process", "actors.count=1"),
    *("learner.learning_rate_schedule=constant", "logging.tensorboard=false"),
)


def _one_line(result, status, *parts):
    assert result.returncode == status, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    line = result.stderr.strip()
    assert line.startswith("bmg: ")
    for part in parts:
        assert part in line


def test_a_run_in_a_folder_with_brackets_goes_on_by_what_its_checkpoint_says(tmp_path):
    """Evaluated, refused with an edited configuration, and gone on with."""
    there = tmp_path / "[2026] proj"
    there.mkdir()
    run = (*CATCH, "evaluation.every_frames=300", "evaluation.episodes=1", "--run-dir", "r")
    first = bmg(*run, "total_frames=600", cwd=there)
    assert first.returncode == 0, first.stderr
    evaluated = bmg("evaluate", "r", "--snapshots", cwd=there)
    assert evaluated.returncode == 0, evaluated.stderr
    file = there / "r" / "config.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.001", "learning_rate: 0.5"))
    edited = bmg("train", "r/config.yaml", "--run-dir", "r", "--resume", cwd=there)
    _one_line(edited, 2, "learner.learning_rate=0.5", "has 0.001")
    _one_line(bmg("evaluate", "r", cwd=there), 2, "learner.learning_rate=0.5", "has 0.001")
    resumed = bmg(*run, "total_frames=900", "--resume", cwd=there)
    assert resumed.returncode == 0, resumed.stderr
    assert read_summary(there / "r")["frames"] >= 900


@pytest.mark.ci
@pytest.mark.parametrize(
    "run",
    [
        (*CATCH, "logging.every_seconds=0.1"),
        ("train", "two_colours/actor_critic", "seeds=1", "logging.tensorboard=false"),
    ],
    ids=["catch", "two_colours"],
)
def test_a_step_that_is_too_long_leaves_a_good_checkpoint(tmp_path, run):
    """Its parameters are finite, an update of them is not: they are in no checkpoint."""
    folder = tmp_path / "run"
    run = (*run, "learner.learning_rate=1e30", "checkpoint.every_seconds=1e-9")
    _one_line(bmg(*run, "--run-dir", folder), 1, "finite", str(folder))
    assert read_summary(folder)["status"] == "failed"
    (kept,) = (folder / "checkpoints").iterdir()
    assert kept.name == "0"
    _one_line(bmg(*run, "--run-dir", folder, "--resume"), 1, "finite")


@pytest.mark.ci
def test_meta_learning_that_dies_is_said_once_by_name(tmp_path):
    folder = tmp_path / "run"
    result = bmg(
        *("train", "catch/bmg", "actors.runtime=in_process", "meta.learning_rate=1e30"),
        *("logging.every_seconds=0.1", "logging.tensorboard=false", "total_frames=60000"),
        *("--run-dir", folder),
    )
    assert result.returncode == 0, result.stderr
    for said in (result.stderr, (folder / "log.txt").read_text()):
        for name in ("discount", "policy_cost", "value_cost"):
            assert said.count(f"{name} is not being learned: it sits at its bound") == 1


def test_a_run_that_gets_no_memory_ends_in_one_line(tmp_path):
    """XLA asks the system for more than there is."""
    config = load("catch/impala", ["actors.runtime=in_process"])
    with (
        contextlib.closing(Record(config, tmp_path, 3, NoDisplay())) as record,
        pytest.raises(RunFailed, match=r"^RESOURCE_EXHAUSTED: .*: make learner.batch_size, .*"),
        record.noting_how_it_ends(Progress(updates=7)),
    ):
        jnp.zeros(2**48, jnp.uint8).block_until_ready()
    summary = read_summary(tmp_path)
    assert summary["status"] == "failed"
    assert summary["reason"].endswith("(after update 7)")


@pytest.fixture
def disk():
    """A small file system of its own, with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        mount = ("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder)
        if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
            pytest.skip("this user may not mount a small file system")
        yield Path(folder)
        subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(disk, leave=0):
    """Takes all room of a file system but for so many bytes."""
    with (disk / "filler").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(max(0, file.tell() - leave))


@pytest.mark.ci
@pytest.mark.parametrize(
    ("leave", "options"),
    [
        (0, ("checkpoint.every_seconds=1e9", "logging.tensorboard=true")),
        (64_000, ("checkpoint.every_seconds=0.2",)),
    ],
    ids=["metrics", "checkpoint"],
)
def test_a_full_disk_ends_the_run_in_one_line_and_loses_nothing(disk, leave, options):
    folder = disk / "run"
    run = (*CATCH, "logging.every_seconds=0.1", *options, "--run-dir", folder)
    process = start(*run, "total_frames=100000000")
    wait_for(lambda: len(read_metrics(folder)) >= 3, what="three lines of metrics")
    _fill(disk, leave)
    _, errors = process.communicate(timeout=120)
    process.stderr = errors
    _one_line(process, 1, "No space left on device", str(folder))
    summary = read_summary(folder)
    assert summary["status"] == "failed"
    assert "No space left" in summary["reason"]
    checkpoints = [path.name for path in (folder / "checkpoints").iterdir()]
    assert all(map(str.isdigit, checkpoints))
    if leave == 0:
        for command in (("evaluate", folder), ("report", folder)):
            _one_line(bmg(*command), 1, "No space left on device", str(folder))
    (disk / "filler").unlink()
    newest = folder / "checkpoints" / max(checkpoints, key=int)
    frames = json.loads((newest / "progress.json").read_text())["frames"]
    resumed = bmg(*run, f"total_frames={frames + 3_000}", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert read_summary(folder)["status"] == "finished"
    frames = [line["frames"] for line in read_metrics(folder)]
    assert frames == sorted(set(frames))


def test_ray_keeps_its_files_where_there_is_room(disk, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(disk))
    assert ray_folder() == "/tmp/ray"
    monkeypatch.setenv("RAY_TMPDIR", str(disk))
    with pytest.raises(ValueError, match=r"has no room \(No space left on device\); set it to"):
        ray_folder()
