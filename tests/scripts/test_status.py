"""`bmg status`: what is said of run folders, with real locks and a real training that is killed."""

import contextlib
import json
import shutil
import socket

import pytest

from configs.load import ConfigError
from learner.run_folder import CONFIGURATION, RunFolder, locked
from scripts.status import find_runs, status, status_of
from tests.system.command import bmg, read_metrics, read_summary, start, wait_for


def _folder(path, said="running", host=None, **facts):
    """A run folder with three lines of metrics, as a training leaves it."""
    folder = RunFolder(path, tensorboard=False)
    (path / CONFIGURATION).write_text("seed: 0\n")
    for n in (1, 2, 3):
        line = {"frames": 100 * n, "seconds": 10.0 * n, "frames_per_second": 10.0}
        folder.log({**line, "episode_return": 1.25})
    origin = {"host": host or socket.gethostname(), "process": 1}
    folder.write_summary(said, total_frames=1_000, provenance=origin, **facts)
    folder.close()
    return path


def _lines(capsys, *folders):
    assert status([str(folder) for folder in folders]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["run", "status"]
    return lines


def test_a_line_for_each_run_of_a_sweep(tmp_path, capsys):
    """Long names and reasons too; a checkpoint's own configuration is no run."""
    reason = "no memory " * 15
    _folder(tmp_path / "sweep" / "a" / ("long" * 30), "failed", reason=reason.strip())
    done = _folder(tmp_path / "sweep" / "b", "finished")
    (done / "checkpoints" / "7").mkdir(parents=True)
    shutil.copy(done / CONFIGURATION, done / "checkpoints" / "7")
    with locked(_folder(tmp_path / "sweep" / "c")):
        failed, finished, running = _lines(capsys, tmp_path / "sweep", done)
    assert failed.endswith(reason.strip())
    assert finished.split()[1:6] == ["finished", "30", "300", "1.25", "-"]
    # 700 frames at 10 a second are left.
    assert running.split()[1:7] == ["running", "30", "300", "1.25", "10", "0:01:10"]
    assert socket.gethostname() in running


@pytest.mark.parametrize(
    ("host", "held", "said", "reason"),
    [
        (None, False, "dead", "--resume"),
        (None, True, "running", ""),
        ("elsewhere", False, "running", "ask elsewhere"),
        ("elsewhere", True, "running", ""),
    ],
)
def test_who_is_alive(tmp_path, host, held, said, reason):
    folder = _folder(tmp_path / "run", host=host)
    with locked(folder) if held else contextlib.nullcontext():
        run = status_of(folder)
    assert run.status == said
    assert reason in run.reason
    assert bool(reason) == bool(run.reason)
    assert run.seconds_silent is not None
    assert run.seconds_silent < 60


def test_what_cannot_be_read(tmp_path, capsys, caplog):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty holds no run"):
        status([str(tmp_path / "empty")])
    with pytest.raises(ConfigError, match="missing holds no run"):
        status([str(tmp_path / "missing")])
    folder = _folder(tmp_path / "run", "finished")
    for content in ('{"status": 7, "provenance": 3, "total_frames": "x"}', "[]", "{", "\0"):
        (folder / "summary.json").write_text(content)
        (line,) = _lines(capsys, tmp_path)
        assert " unreadable " in line
        assert "summary.json" in caplog.text
        caplog.clear()
    assert list(find_runs(tmp_path)) == [folder]


@pytest.mark.ci
def test_a_training_that_is_killed_is_dead(tmp_path):
    folder = tmp_path / "run"
    words = ("catch/impala", "actors.runtime=in_process", "logging.every_seconds=0.2")
    process = start("train", *words, "total_frames=1e9", "--run-dir", folder)
    wait_for(lambda: len(read_metrics(folder)) > 2, what="metrics")
    running = bmg("status", tmp_path)
    process.kill()
    process.communicate()
    dead = bmg("status", tmp_path)
    assert (running.returncode, dead.returncode) == (0, 0), running.stderr
    assert " running " in running.stdout.splitlines()[1]
    assert " dead " in dead.stdout.splitlines()[1]
    origin = read_summary(folder)["provenance"]
    assert origin["host"] == socket.gethostname()
    assert origin["process"] == process.pid
    assert "catch/impala" in origin["command"]
    assert origin["ended"] is None
    assert json.dumps(origin["packages"]["jax"])


def test_whoever_looks_at_a_lock_keeps_nobody_from_training(tmp_path):
    """A look takes a shared lock for a moment; a training that begins then tries again."""
    import fcntl
    import threading

    folder = _folder(tmp_path / "run")
    (folder / ".lock").touch()
    with (folder / ".lock").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        timer = threading.Timer(0.01, fcntl.flock, (looking, fcntl.LOCK_UN))
        timer.start()
        with locked(folder):
            pass
        timer.join()
