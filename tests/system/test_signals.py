"""Signals at every moment of a run's life, and a Ray that goes away: one line, and no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.system.command import ROOT, bmg, read_metrics, read_summary, start, wait_for

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


@pytest.mark.ci
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


_INTERRUPTED_WHILE_IT_SAVES = """
import logging, os, signal, sys, tempfile, threading, time
from pathlib import Path
from typing import Any, NamedTuple
import numpy as np
from configs.load import load
from learner.checkpoint import Checkpoints
from learner.loop import Progress
from scripts import runtime, signals
from scripts.display import NoDisplay
from scripts.record import Record
from tests.system.command import read_summary
class State(NamedTuple):
    arrays: Any
logging.getLogger("absl").setLevel(logging.CRITICAL)
state = State({str(i): np.zeros((64, 64), np.float32) for i in range(100)})
config = load("catch/impala", ["actors.runtime=in_process", "logging.tensorboard=false"])
record = Record(config, Path(sys.argv[1]), 3, NoDisplay())
for k in range(12):
    checkpoints = Checkpoints(Path(sys.argv[1], str(k)), 3)  # threads may still be in the last one
    stop = runtime.StopSignals()
    signal.raise_signal(signal.SIGINT)  # the first one
    record.note("running")
    try:
        try:
            threading.Timer(0.01 + 0.025 * k, os.kill, (os.getpid(), signal.SIGINT)).start()
            with record.noting_how_it_ends(Progress(updates=k)):
                checkpoints.save(state, Progress(updates=k))
                time.sleep(10.0)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt as error:
        print(error.args[0], read_summary(Path(sys.argv[1]))["status"])
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
signals.end(0)  # as `bmg` ends: threads of orbax wait for what has not been said to them
"""


def test_an_interrupt_at_any_moment_of_a_save_is_one(tmp_path):
    """Libraries make other errors of it, and their threads complain."""
    command = [sys.executable, "-c", _INTERRUPTED_WHILE_IT_SAVES, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["2 interrupted"] * 12


_IN_A_CALL_THAT_DOES_NOT_COME_BACK = """
import ctypes, logging
from scripts import runtime
logging.basicConfig(format="%(message)s")
runtime._LATE_SECONDS = dict.fromkeys(runtime._LATE_SECONDS, 2.0)
stop = runtime.StopSignals()
with stop.obeyed(), stop.noting(lambda: print("noted", flush=True)):
    lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, (ctypes.c_byte * 64)()
    lock(mutex)
    print("called", flush=True)
    lock(mutex)  # as a compilation, it looks at no signal
"""
_IN_A_LOOP_THAT_DOES_NOT_ASK = """
import logging, time
from scripts import runtime
logging.basicConfig(format="%(message)s")
runtime._LATE_SECONDS = dict.fromkeys(runtime._LATE_SECONDS, 2.0)
stop = runtime.StopSignals()
with stop.obeyed(), stop.noting(lambda: print("noted", flush=True)):
    print("called", flush=True)
    while True:  # as a call of Ray's, it looks at signals and goes on
        time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("code", "number"),
    [
        (_IN_A_CALL_THAT_DOES_NOT_COME_BACK, signal.SIGINT),
        (_IN_A_CALL_THAT_DOES_NOT_COME_BACK, signal.SIGTERM),
        (_IN_A_LOOP_THAT_DOES_NOT_ASK, signal.SIGTERM),
    ],
    ids=["call-SIGINT", "call-SIGTERM", "loop-SIGTERM"],
)
def test_a_second_signal_ends_what_does_not_come_back(code, number):
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "called\n"
        time.sleep(0.5)  # now it is in it
        process.send_signal(number)
        process.send_signal(number)  # at once, as `timeout` does: it is one wish
        late = process.stderr.readline()
        assert late.startswith(f"bmg: {number.name} has to wait for the end of a step, a compil")
        assert process.poll() is None
        process.send_signal(number)
        try:
            noted, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert noted == "noted\n"
    assert errors == (
        "bmg: ended without a checkpoint of this moment; --resume goes on from the newest one\n"
    )


_SAVES = """
import logging, multiprocessing, time
from scripts import runtime
logging.basicConfig(format="%(message)s")
runtime._LATE_SECONDS = dict.fromkeys(runtime._LATE_SECONDS, 2.0)
stop = runtime.StopSignals()
with stop.obeyed(), stop.noting(lambda: print("noted")):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(99.0,))
    child.start()
    child.terminate()  # its signal is not this process's
    print("begun", flush=True)
    with stop.saving():  # before the loop could ask, as after the last frame
        time.sleep(6.0)
    assert stop()
    with stop.saving():
        time.sleep(1.0)
    print("saved", flush=True)
    time.sleep(3.0)  # closing
print(stop.exit_status())
child.kill()
"""


def test_signals_end_no_save():
    """However many come, and whatever is closed after it; nor do those that are for a child."""
    command = [sys.executable, "-c", _SAVES]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "begun\n"
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            time.sleep(1.5)
        assert process.communicate(timeout=60) == ("saved\n143\n", "")
    assert process.returncode == 0


_INTERRUPTED_IN_A_FINALISER = """
import os, signal, time
from scripts.signals import interrupt
class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100): pass
interrupt()
try:
    finalised = Finalised()
    del finalised
    time.sleep(5.0)
except KeyboardInterrupt as error:
    print("interrupted by", error.args[0])
"""


def test_an_interrupt_in_a_finaliser_is_not_lost():
    """As Python would lose it, with a traceback."""
    command = [sys.executable, "-c", _INTERRUPTED_IN_A_FINALISER]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout, result.stderr) == ("interrupted by 2\n", "")


@pytest.mark.ci
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


_USES_RAY = """
import os, signal, subprocess, sys, time
from pathlib import Path
from scripts.ray_watch import watched
quiet = subprocess.DEVNULL
node = subprocess.Popen(["sleep", "60"], stdout=quiet, stderr=quiet)
end, log, head, folder = sys.argv[1:]
with watched(node.pid, log, head, Path(folder)):
    time.sleep(1.0)  # until it is watched
    subprocess.run(["pkill", "-KILL", "-f", "ray", "-P", str(os.getpid())], check=False)
    if end == "suspended":
        node.send_signal(signal.SIGSTOP)
        node.wait()  # as for Ray, which never answers
        os._exit(1)
    if end != "killed":
        node.kill()
        node.wait()
    if end == "with its node":
        os._exit(1)
    if end != "by itself":
        os.kill(os.getpid(), signal.SIGKILL)
"""


_GONE = "Ray's node process (raylet) has ended"


@pytest.mark.ci
@pytest.mark.parametrize(
    ("end", "log", "head", "said"),
    [
        ("with its node", "", "", _GONE),
        ("by itself", "", "", ""),
        ("killed", "", "", ""),
        ("killed", "W The connection to the plasma store is failed. Terminate", "", _GONE),
        ("suspended", "", "", "Ray's node process (raylet) was suspended for 30 s"),
        ("killed", "", "127.0.0.1:1", "Ray's head (gcs_server) at 127.0.0.1:1 is gone"),
        ("killed", "E Failed to connect to GCS within 60", "", "Ray's head (gcs_server) is gone"),
    ],
)
def test_only_what_ray_has_ended_is_told(tmp_path, end, log, head, said):
    """A process in the place of Ray's, so that it can be told when to end."""
    (tmp_path / "ray.log").write_text(log)
    (tmp_path / "summary.json").write_text('{"status": "running"}')
    (tmp_path / "metrics.jsonl").write_text('{"frames": 10}\n{"frames": 20}\n{"fra')
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    (tmp_path / "checkpoints" / "2" / "progress.json").write_text('{"frames": 10}')
    result = subprocess.run(
        [sys.executable, "-c", _USES_RAY, end, tmp_path / "ray.log", head, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    summary = read_summary(tmp_path)
    if not said:
        assert (summary, result.stderr) == ({"status": "running"}, "")
        return
    (line,) = result.stderr.splitlines()
    for part in (f"bmg: the run failed: {said}", "10 of 20 frames", str(tmp_path)):
        assert part in line
    assert (summary["status"], summary["frames"]) == ("failed", 20)


def _family(process):
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.mark.ci
def test_ray_goes_away_and_the_run_is_resumed_and_ended_while_ray_starts(tmp_path):
    folder = tmp_path / "run"
    run = (*_CATCH, _ENDLESS, "checkpoint.every_seconds=1", "--run-dir", folder)
    process = start(*run)
    wait_for(lambda: len(read_metrics(folder)) >= 8 or process.poll() is not None, what="it learns")
    family = _family(process)
    assert family, process.communicate()
    (raylet,) = (member for member in family if member.name() == "raylet")
    raylet.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    line = errors.splitlines()[-1]  # before it perhaps of actors, which go first
    for part in ("bmg: the run failed: Ray", "raylet", "--resume", "frames", str(folder)):
        assert part in line
    summary = read_summary(folder)
    assert summary["status"] == "failed"
    assert summary["reason"] in line
    assert summary["frames"] == read_metrics(folder)[-1]["frames"]
    saved = max(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*"))
    assert saved > 0
    _, alive = psutil.wait_procs(family, timeout=120)
    assert not alive

    process = start(*run, "--resume")
    wait_for(
        lambda: (
            any(member.name() == "gcs_server" for member in _family(process))
            or process.poll() is not None
        ),
        what="Ray starts",
    )
    os.killpg(process.pid, signal.SIGTERM)
    family = []
    while process.poll() is None:
        family = [*{*family, *_family(process)}]
        time.sleep(0.05)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "")
    assert family
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert (folder / "checkpoints" / str(saved)).exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_part_of_ray_that_stays_suspended_ends_the_run(tmp_path, name):
    """It keeps all its connections and answers nothing."""
    folder = tmp_path / "run"
    process = start(*_CATCH, _ENDLESS, "checkpoint.every_seconds=1", "--run-dir", folder)
    wait_for(lambda: len(read_metrics(folder)) >= 8 or process.poll() is not None, what="it learns")
    (suspended,) = (member for member in _family(process) if member.name() == name)
    suspended.suspend()
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 1
    assert name in errors.splitlines()[-1]
    assert read_summary(folder)["status"] == "failed"
    saved = max(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*"))
    assert saved > 0
