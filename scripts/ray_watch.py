"""A small process beside a training that says so, and notes it, when Ray has ended the training.

Of a Ray of the training's own it also ends what has been suspended for long, since the training
would wait for it for ever; of another's, it says so.

Ray ends the process that uses it at once, in C++, when the node process beside it (the raylet) is
gone: killed, out of memory, stopped by `ray stop`. Nothing in that process can say or save anything
then. This one runs without any package, so that it costs 10 MiB and starts in milliseconds.
"""

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TAIL_BYTES = 65_536  # of a file whose last lines are read
_ANSWER_SECONDS = 5.0
_LOOK_SECONDS = 1.0
# A process that is merely slow is not suspended, so this can be short; docs/run_folder.md.
_SUSPENDED_LOOKS = 30
_ENDED = b"."  # what a process says that ends by itself
# What Ray's log of a process says before it ends the process for want of a raylet, or of a head.
_RAY_HAS_ENDED_IT = re.compile(rb"connection to the plasma store is failed|local [Rr]aylet")
_WITHOUT_HEAD = re.compile(rb"Failed to connect to GCS")
_VERSION = re.compile("0|[1-9][0-9]*")
_ARGUMENTS = "BMG_WATCHED"
# Whoever ends all processes with Ray's name in their command line must not end this one.
_START = f"""
import json, os, runpy, sys
sys.argv = json.loads(os.environ[{_ARGUMENTS!r}])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_ORPHANED = signal.SIGUSR1
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)


@contextlib.contextmanager
def watched(
    raylet: int | None, log: str, head: str, folder: Path, own_head: int | None = None
) -> Iterator[None]:
    """Around everything that uses Ray.

    Args:
        raylet: its process; None where it is unknown, and nothing is watched.
        log: the file in which Ray says what it does in this process.
        head: host:port of a cluster that was joined; empty for one of the training's own.
        folder: of the run, whose summary.json is to say `failed`, or of a sweep.
        own_head: the head's process of one of the training's own, where it is known.
    """
    if raylet is None or not hasattr(os, "pidfd_open"):  # which only Linux has
        yield
        return
    arguments = json.dumps([__file__, str(raylet), log, head, str(folder), str(own_head or 0)])
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _START],
        env={**os.environ, _ARGUMENTS: arguments},
        stdin=subprocess.PIPE,
        start_new_session=True,  # a signal for all processes of the training must not end it
    )
    assert watcher.stdin is not None
    ends = watcher.stdin.fileno()

    def say_that_it_ends() -> None:
        with contextlib.suppress(OSError):
            os.write(ends, _ENDED)

    from scripts import signals  # which the watcher itself, without any package, cannot have

    try:
        with signals.undone(say_that_it_ends):
            yield
    finally:
        with contextlib.suppress(OSError):
            watcher.stdin.close()
        watcher.wait()


def _watch(raylet: int, log: Path, head: str, folder: Path, own_head: int) -> None:
    ray_first, suspended = _ends_first(raylet, own_head, is_own=not head)
    if os.read(0, 1) == _ENDED:
        return
    said = _tail(log)
    if _WITHOUT_HEAD.search(said):
        gone = f"Ray's head (gcs_server){f' at {head}' if head else ''} is gone"
    elif suspended:
        gone = f"Ray's node process (raylet) was suspended for {_SUSPENDED_LOOKS} s"
    elif ray_first or _RAY_HAS_ENDED_IT.search(said):
        gone = "Ray's node process (raylet) has ended"
    elif head and not _answers(head):
        gone = f"Ray's head (gcs_server) at {head} is gone"
    else:
        return  # the training was killed, and a Ray of its own with it
    reason = f"{gone}, and Ray has ended this process with it"
    if (folder / "summary.json").exists():
        reason += f"; {_lost(folder)}"
        # The disk is full, say, or the summary is none.
        with contextlib.suppress(OSError, ValueError, TypeError):
            _note(folder, reason)
    line = f"bmg: the run failed: {reason}; folder: {folder}"
    print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line), file=sys.stderr)


def _answers(head: str) -> bool:
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def _ends_first(raylet: int, own_head: int, *, is_own: bool) -> tuple[bool, bool]:
    """Waits until the raylet or the training ends; whether it was the raylet, and was suspended.

    What others have started they may suspend.

    Ray's processes are killed when the one that started them ends, so both may have ended before
    this one wakes up. The kernel reports events in their order. A killed training closes its end
    of the pipe only when its last thread and its memory are gone; but when its main thread ends,
    this process gets a signal at the same moment as the raylet. (The other way round the training
    can be the faster one, too: it ends as soon as the first connection breaks. Its log tells.)

    Args:
        raylet: its process.
        own_head: that of the head, or 0; killed, as the raylet, when it is suspended for long.
        is_own: whether the training has started them.
    """
    orphaned = _signal_of_orphans()
    try:
        ended = os.pidfd_open(raylet)
    except ProcessLookupError:
        return True, False
    events = select.epoll()
    events.register(0, select.EPOLLIN | select.EPOLLHUP)
    events.register(orphaned, select.EPOLLIN)
    events.register(ended, select.EPOLLIN)
    looks, killed = dict.fromkeys([raylet, own_head] if own_head else [raylet], 0), set[int]()
    while not (found := events.poll(_LOOK_SECONDS, 1)):
        for process in looks:
            # Whoever suspends the training with it means to go on with both.
            alone = _is_suspended(process) and not _is_suspended(os.getppid())
            looks[process] = looks[process] + 1 if alone else 0
            if looks[process] == _SUSPENDED_LOOKS and is_own:
                killed.add(process)
                os.kill(process, signal.SIGKILL)
            elif looks[process] == _SUSPENDED_LOOKS:
                with contextlib.suppress(OSError):  # nobody reads
                    print(
                        f"bmg: Ray's node process (raylet, {process}) is suspended, and the run "
                        f"waits for it; kill -CONT {process} lets both go on",
                        file=sys.stderr,
                        flush=True,
                    )
    return found[0][0] == ended, raylet in killed


def _is_suspended(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] == "T"


def _signal_of_orphans() -> int:
    """A descriptor that is readable once the thread that has started this process has ended."""
    libc = ctypes.CDLL(None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {_ORPHANED})
    mask = (ctypes.c_ulong * 16)(1 << (_ORPHANED - 1))  # a sigset_t
    descriptor: int = libc.signalfd(-1, mask, 0)
    libc.prctl(_SET_PARENT_DEATH_SIGNAL, _ORPHANED)
    return descriptor


def _lost(folder: Path) -> str:
    """What of a run's learning is safe, in words."""
    learned = _last_metrics(folder).get("frames", 0)
    # As learner.reading does, which cannot be imported here.
    versions = [p for p in (folder / "checkpoints").glob("*") if _VERSION.fullmatch(p.name)]
    if not versions:
        return "there was no checkpoint yet: --resume starts from nothing"
    newest = max(versions, key=lambda path: int(path.name))
    try:
        saved = int(json.loads((newest / "progress.json").read_bytes())["frames"])
    except (OSError, ValueError, LookupError, TypeError):
        return "--resume goes on from the newest checkpoint that is whole"
    return f"--resume goes on from the checkpoint at {saved:,} of {max(saved, learned):,} frames"


def _note(folder: Path, reason: str) -> None:
    """Makes the summary say `failed`, as the training itself does when it can."""
    file = folder / "summary.json"
    summary = {**json.loads(file.read_text()), **_last_metrics(folder)}
    summary |= {"status": "failed", "reason": reason}
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(summary, indent=2) + "\n")
    os.replace(partial, file)


def _last_metrics(folder: Path) -> dict[str, Any]:
    for line in reversed(_tail(folder / "metrics.jsonl").splitlines()):
        with contextlib.suppress(ValueError):  # half a line
            metrics = json.loads(line)
            if isinstance(metrics, dict) and isinstance(metrics.get("frames"), int):
                return metrics
    return {}


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read()
    except OSError:
        return b""


if __name__ == "__main__":
    _watch(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
