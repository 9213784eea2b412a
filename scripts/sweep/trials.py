"""Trials of a sweep as Ray tasks: Ray places them, retries them, and moves them from lost nodes."""

import collections
import contextlib
import ctypes
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray import exceptions

from actors.cluster import ROOT
from learner import reading
from learner.run_folder import CHECKPOINTS, LOCK, RunLocked, locked

_POLL_SECONDS = 0.5
_STOP_SECONDS = 60.0  # for the checkpoint of a trial that has to end
# A killed sweep's trials end when Ray notices, which takes a while; then they save a checkpoint.
_LOCKED_SECONDS = 300.0
_PR_SET_PDEATHSIG = 1
_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt)\b")
# `bmg` with the packages of this process, whatever the folder that it is started in holds (-P).
_BMG = """
import sys
root = sys.argv.pop(1)
sys.path.insert(0, root)
import agents, actors, configs, learner, scripts
sys.path.remove(root)
from scripts.cli import main
main()
"""


class TrialFailed(Exception):
    """The training of a trial ended with a reason."""


class Task(NamedTuple):
    """A trial as a worker of Ray gets it."""

    name: str
    source: str
    overrides: tuple[str, ...]
    folder: Path  # absolute, on a file system that all nodes share
    total_frames: int
    evaluate: bool  # the snapshots, at the end
    work_dir: Path  # that paths in the configuration are relative to


class Each(NamedTuple):
    """What is set aside for a trial."""

    cpus: float
    gpus: float
    memory_bytes: int


def run_tasks(
    tasks: list[Task],
    each: Each,
    retries: int,
    at_once: int,
    on_tick: Callable[[dict[str, str]], None],
) -> dict[str, str]:
    """Runs all, as many at once as there is room for. Ray is connected.

    Args:
        tasks: in the order in which they should start.
        each: resources.
        retries: of a task that fails or whose node is lost.
        at_once: at most so many, where trials have actors on the cluster beside them.
        on_tick: called twice a second with the reasons of the failed ones so far.

    Returns:
        Reasons of the failed ones.
    """
    options: dict[str, Any] = {
        "num_cpus": each.cpus,
        "num_gpus": each.gpus,
        "memory": each.memory_bytes or None,
        "max_retries": retries,
        "retry_exceptions": [TrialFailed],
    }
    remote = ray.remote(**options)(run_task)
    threads, gpu = max(1, math.floor(each.cpus)), each.gpus > 0
    pending: dict[Any, Task] = {}
    waiting = collections.deque(tasks)
    failed: dict[str, str] = {}
    try:
        while pending or waiting:
            while waiting and len(pending) < at_once:
                task = waiting.popleft()
                pending[remote.options(name=task.name).remote(task, threads, gpu)] = task
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=_POLL_SECONDS)
            for reference in ready:
                task = pending.pop(reference)
                try:
                    ray.get(reference)
                except exceptions.RayTaskError as error:
                    failed[task.name] = str(error.cause)
                except exceptions.RayError as error:  # its worker or its node is lost
                    failed[task.name] = str(error).splitlines()[0]
            on_tick(failed)
    except BaseException:
        for reference in pending:
            ray.cancel(reference)  # raises KeyboardInterrupt in it
        ray.wait(list(pending), num_returns=len(pending), timeout=_STOP_SECONDS + 5)
        raise
    return failed


def run_task(task: Task, threads: int, gpu: bool) -> None:
    """Trains, or goes on training, in a process of its own; then evaluates.

    Raises:
        TrialFailed: with what the training said last.
    """
    # Ray interrupts by way of SIGINT, which a sweep in the background of a shell script, and so
    # all its descendants, ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _wait_until_unlocked(task.folder)
    if not is_trained(task.folder, task.total_frames):
        resume = has_checkpoint(task.folder)
        arguments = ["train", task.source, *task.overrides, "--run-dir", str(task.folder)]
        _bmg(task, [*arguments, *(["--resume"] if resume else [])], threads, gpu)
    if task.evaluate and not is_evaluated(task.folder):
        _bmg(task, ["evaluate", str(task.folder), "--snapshots"], threads, gpu)


def is_trained(folder: Path, total_frames: int) -> bool:
    """Whether a run has nothing left to train."""
    summary, _ = reading.read_summary(folder)
    return summary.get("status") == "finished" and summary.get("frames", 0) >= total_frames


def is_finished(task: Task) -> bool:
    """Whether a trial has nothing left to do."""
    if not is_trained(task.folder, task.total_frames):
        return False
    return not task.evaluate or is_evaluated(task.folder)


def is_evaluated(folder: Path) -> bool:
    """Whether there is an evaluation for each snapshot."""
    played = set()
    for file in folder.glob("evaluation*at-*.json"):
        with contextlib.suppress(reading.Unreadable, FileNotFoundError):  # played once more
            evaluation = reading.read_evaluation(file)
            if evaluation["policy"] == "sample":
                played.add(evaluation["learner_updates"])
    return played.issuperset(reading.versions(folder / "snapshots"))


def has_checkpoint(folder: Path) -> bool:
    """Whether a run can go on."""
    return bool(reading.versions(folder / CHECKPOINTS))


def _wait_until_unlocked(folder: Path) -> None:
    """Until no process trains into the folder; a folder without a checkpoint is emptied then.

    Raises:
        TrialFailed: one goes on.
    """
    deadline = time.monotonic() + _LOCKED_SECONDS
    while folder.is_dir():
        try:
            with locked(folder):
                if not has_checkpoint(folder):
                    _empty(folder)  # ended before its first one: there is nothing to go on with
                return
        except RunLocked as error:
            if time.monotonic() > deadline:
                raise TrialFailed(str(error)) from error
            time.sleep(_POLL_SECONDS)


def _empty(folder: Path) -> None:
    """Removes what a run has begun to write, but not the lock, which is held."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _bmg(task: Task, arguments: list[str], threads: int, gpu: bool) -> None:
    """Runs `bmg` to its end; what it prints goes beside the run folder."""
    output = task.folder.with_name(f"{task.folder.name}.log")
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a") as file, child(arguments, task.work_dir, threads, gpu, file) as process:
        begun = os.fstat(file.fileno()).st_size  # behind what earlier attempts have said
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
    if process.returncode:
        said = output.read_bytes()[begun:].decode(errors="replace")
        raise TrialFailed(f"{_reason(said)} (exit {process.returncode}; {output})")


def _reason(said: str) -> str:
    """The last line that a failed trial has said; where it is a traceback's, the error's own."""
    lines = said.strip().splitlines() or ["it said nothing"]
    begun = max((n for n, line in enumerate(lines) if line.startswith("Traceback (")), default=None)
    if begun is None or lines[-1].startswith("bmg: "):
        return lines[-1]
    return ([line for line in lines[begun:] if _RAISED.match(line)] or lines)[-1]


@contextlib.contextmanager
def child(
    arguments: list[str], work_dir: Path, threads: int, gpu: bool, output: Any
) -> Iterator[subprocess.Popen]:
    """A `bmg` process that ends, with a checkpoint, when this one ends or is interrupted."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _BMG, str(ROOT), *arguments],
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=work_dir,
        env=_environment(threads, gpu),
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _environment(threads: int, gpu: bool) -> dict[str, str]:
    """Without what Ray tells its workers, which would confuse a Ray of the trial's own."""
    kept = ("RAY_AUTH", "RAY_TMPDIR", "RAY_ENABLE_UV")
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "__RAY_")) or name.startswith(kept)
    }
    if ray.is_initialized():  # for trials with actors.ray_address=auto
        variables["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    if not gpu:
        variables |= {"JAX_PLATFORMS": "cpu"}
    return variables | {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}
