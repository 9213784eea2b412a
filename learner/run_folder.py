"""A run folder: configuration, metrics, summary, TensorBoard. Knows no algorithm."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

Status = Literal["running", "finished", "interrupted", "failed"]

LOCK = ".lock"  # in a run folder
CONFIGURATION = "config.yaml"  # in a run folder, and in each of its checkpoints
CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"  # in a checkpoint: SHA-256 of each of its files
# Of file systems that know no locks, as some of clusters.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
# Whoever runs the program can do something about these, and nothing is wrong with it.
STORAGE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


class RunFolder:
    """Writes what users and their scripts read (docs/run_folder.md)."""

    def __init__(self, path: Path, *, tensorboard: bool) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._metrics = (path / "metrics.jsonl").open("a+", buffering=1)
        self._metrics.seek(0)
        lines = self._metrics.readlines()  # of earlier starts of the run
        self._latest: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        self._events = _Events(path / "tensorboard") if tensorboard else None

    def log(self, metrics: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl, and its scalars to TensorBoard at `frames`."""
        self._latest = metrics
        self._metrics.write(json.dumps(_plain(metrics), allow_nan=False) + "\n")
        if self._events is not None:
            self._events.add(metrics)

    def write_summary(self, status: Status, **facts: Any) -> None:
        """Replaces summary.json by the last metrics, the status and `facts`.

        Atomically; but on a full disk, where there is no room for a second one, it is written over
        if it fits: that a run has failed should stand there.
        """
        file, content = self.path / "summary.json", {"status": status, **self._latest, **facts}
        try:
            write_json(file, content)
        except OSError:
            _write_over(file, _json(content))

    def close(self) -> None:
        """Closes the files; the folder stays. What could not be written was an error before."""
        for file in (self._metrics, self._events):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()


class _Events:
    """TensorBoard's scalars, written in this thread: another one's errors would go unseen."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # 0.3 s, only where it is wanted

        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder.absolute() / "events"))

    def add(self, metrics: dict[str, Any]) -> None:
        from tensorboardX.proto.event_pb2 import (  # made at import, unseen by type checkers
            Event,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from tensorboardX.summary import scalar

        for name, value in metrics.items():
            if isinstance(value, (int, float)):
                self._writer.write_event(
                    Event(
                        wall_time=time.time(), step=metrics["frames"], summary=scalar(name, value)
                    )
                )
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class RunLocked(Exception):
    """Another process trains into the run folder."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a run folder, so that no two processes write into it; the system frees a dead one's.

    Raises:
        RunLocked: another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLocked(f"another process trains into {path}") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file, as `replace_text` does."""
    replace_text(path, _json(content))


def _json(content: dict[str, Any]) -> str:
    return json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"


def replace_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)  # it would fill a full disk for good
        raise


def _write_over(path: Path, text: str) -> None:
    """Writes a file in place, within the room that it has on the disk already.

    Raises:
        OSError: it is too small, or cannot be written at all.
    """
    content = text.encode()
    if len(content) > path.stat().st_blocks * 512:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def write_error(error: Exception) -> str:
    """Why something could not be written or read, in a few words.

    Libraries wrap what the system said into lines of their own.
    """
    text = " ".join(str(error).split())
    for number in STORAGE_FAULTS:
        if os.strerror(number) in text:
            return os.strerror(number)
    return f"{type(error).__name__}: {text[:200]}"


def digest(path: Path) -> str:
    """SHA-256 of a file, as in a checkpoint's manifest.

    Raises:
        OSError: it cannot be read.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()


def configuration_of(path: Path) -> Path:
    """The file of the configuration that a run has learned with.

    That of the newest checkpoint which has an undamaged one: checkpoints of older versions have
    none, and the run folder's own may have been edited since.
    """
    folders = [p for p in (path / CHECKPOINTS).glob("*") if p.name.isdecimal()]
    for folder in sorted(folders, key=lambda p: int(p.name), reverse=True):
        try:
            known = json.loads((folder / MANIFEST).read_bytes())
            if digest(folder / CONFIGURATION) == known[CONFIGURATION]:
                return folder / CONFIGURATION
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return path / CONFIGURATION


def forget_after(path: Path, frames: int) -> None:
    """Drops the lines of metrics.jsonl that a resumed run will write again.

    Args:
        path: of the run folder.
        frames: of the checkpoint that the run goes on from.
    """
    file = path / "metrics.jsonl"
    if not file.exists():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            known = json.loads(line)["frames"] <= frames
        except (ValueError, KeyError):  # the last line of a process that was killed
            known = False
        if known:
            kept.append(line + "\n")
    replace_text(file, "".join(kept))


def _plain(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
