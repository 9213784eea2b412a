"""Signals at every moment of a run's life: its status, and no traceback."""

import signal
import time
from pathlib import Path

import pytest

from tests.system.command import bmg, read_metrics, read_summary, start, wait_for

_CATCH = ("train", "catch/impala", "logging.every_seconds=0.3", "logging.tensorboard=false")
_IN_PROCESS = (*_CATCH, "actors.runtime=in_process", "actors.count=1")
_ENDLESS = "total_frames=100000000"


def _has_loaded(process, library):
    try:
        return library in Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("number", "library"), [(signal.SIGINT, "pydantic_core"), (signal.SIGTERM, "jaxlib")]
)
def test_during_the_imports(tmp_path, number, library):
    process = start(*_IN_PROCESS, _ENDLESS, cwd=tmp_path)
    wait_for(lambda: _has_loaded(process, library), what=f"it imports {library}")
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (128 + number, "", "")
    assert not list(tmp_path.iterdir())


def test_a_second_ctrl_c_during_the_last_save_and_a_hang_up_under_nohup(tmp_path):
    folder = tmp_path / "run"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(*_IN_PROCESS, _ENDLESS, "--run-dir", folder)
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(lambda: len(read_metrics(folder)) >= 2, what="it learns")
    process.send_signal(signal.SIGHUP)
    learned = len(read_metrics(folder))
    wait_for(lambda: len(read_metrics(folder)) >= learned + 2, what="it learns on")
    process.send_signal(signal.SIGINT)
    saving = folder / "checkpoints"
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        if list(saving.glob("incomplete-*")):
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert read_summary(folder)["status"] == "interrupted"


def test_killed_before_its_first_checkpoint_it_can_be_resumed(tmp_path):
    run = (*_IN_PROCESS, "total_frames=600", "--run-dir")
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        process = start(*run, folder)
        while not (folder / "config.yaml").exists() and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        process.communicate()
        if not (folder / "checkpoints" / "0").exists():
            break
    else:
        raise AssertionError("killed too late each time")
    resumed = bmg(*run, folder, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"{folder} holds no checkpoint yet: the run starts from nothing" in resumed.stdout
    assert read_summary(folder)["status"] == "finished"
