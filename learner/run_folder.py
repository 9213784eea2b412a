"""A run folder: configuration, metrics, summary, TensorBoard. Knows no algorithm."""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from learner import reading

Status = Literal["running", "finished", "interrupted", "failed"]

LOCK = ".lock"  # in a run folder
CONFIGURATION = "config.yaml"  # in a run folder, and in each of its checkpoints
CHECKPOINTS = "checkpoints"
LOG = "log.txt"  # in a run folder
SEEDS = "seeds.npz"  # in that of several seeds in one program
PROGRESS = "progress.json"  # in a checkpoint: the counters at it
MANIFEST = "manifest.json"  # in a checkpoint: SHA-256 of each of its files
# Of file systems that know no locks, as some of clusters.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
# Whoever runs the program can do something about these, and nothing is wrong with it.
STORAGE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
_LOOKED_SECONDS = 0.05  # `is_locked` holds a lock for less
_log = logging.getLogger(__name__)


class RunFolder:
    """Writes what users and their scripts read (docs/run_folder.md)."""

    def __init__(self, path: Path, *, tensorboard: bool) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._latest: dict[str, Any] = reading.last_metrics(path)  # of earlier starts of the run
        half_a_line = _lacks_its_end(path / reading.METRICS)
        self._metrics = (path / reading.METRICS).open("a", buffering=1)
        if half_a_line:  # by a process that was killed, before there was a checkpoint
            self._metrics.write("\n")
        self._events = _Events(path / "tensorboard") if tensorboard else None

    def log(self, metrics: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl, and its scalars to TensorBoard at `frames`.

        Raises:
            OSError: it cannot be written, or the folder is gone.
        """
        self._latest = metrics
        self._find_again()
        self._metrics.write(json.dumps(_plain(metrics), allow_nan=False) + "\n")
        if self._events is not None:
            self._events.add(metrics)

    def note(self, name: str, text: str) -> None:
        """Shows a text in TensorBoard, in which lines stay as they are."""
        if self._events is not None:
            self._events.add_text(name, text)

    def _find_again(self) -> None:
        """Opens metrics.jsonl anew where it was removed, or an editor has put another in its place.

        Raises:
            FileNotFoundError: the folder was removed or moved; what is written would be lost.
        """
        file = self.path / reading.METRICS
        try:
            same = os.path.samestat(file.stat(), os.fstat(self._metrics.fileno()))
        except FileNotFoundError:
            same = False
        if not same:
            self._metrics.close()
            self._metrics = file.open("a", buffering=1)

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


def _lacks_its_end(file: Path) -> bool:
    """Whether the last line of a file has no end."""
    if not file.is_file():
        return False
    with file.open("rb") as content:
        content.seek(max(0, content.seek(0, os.SEEK_END) - 1))
        return content.read() not in (b"", b"\n")


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

    def add_text(self, name: str, text: str) -> None:
        from tensorboardX.proto.event_pb2 import (
            Event,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from tensorboardX.summary import text as of_text

        indented = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown for verbatim
        event = Event(wall_time=time.time(), step=0, summary=of_text(name, indented))
        self._writer.write_event(event)
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
    # O_NONBLOCK: what is no file but a pipe must not be waited for.
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
    with os.fdopen(os.open(path / LOCK, flags, 0o666), "wb") as file:
        for last in (False, True):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if last:
                    raise RunLocked(f"another process trains into {path}") from None
                time.sleep(_LOOKED_SECONDS)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                break
        yield


def is_locked(path: Path) -> bool | None:
    """Whether a process holds a run folder, as far as this machine sees; None: it cannot tell."""
    try:
        with (path / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file, as `replace_text` does."""
    replace_text(path, _json(content))


def _json(content: dict[str, Any]) -> str:
    return json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"


def replace_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """As `replace_text`."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
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


def keep_traceback(path: Path, error: BaseException) -> None:
    """Appends to log.txt where an error comes from, which the one line of a failure leaves out."""
    file = path / LOG
    if file.exists() and not file.is_file():  # a pipe that nobody reads
        return
    when, lines = time.strftime("%Y-%m-%d %H:%M:%S"), traceback.format_exception(error)
    with (
        contextlib.suppress(OSError),  # of a full disk, say
        file.open("a", encoding="utf-8", errors="backslashreplace") as log,
    ):
        log.write(f"{when} ERROR {''.join(lines)}")


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
        FileNotFoundError: there is none.
        reading.Unreadable: it is no file, or cannot be read.
    """
    return hashlib.sha256(reading.content_of(path)).hexdigest()


def configuration_of(path: Path) -> Path:
    """The file of the configuration that a run has learned with.

    That of the newest checkpoint which has an undamaged one: checkpoints of older versions have
    none, and the run folder's own may have been edited since.
    """
    for version in reversed(reading.versions(path / CHECKPOINTS)):
        folder = path / CHECKPOINTS / str(version)
        try:
            known = reading.read_object(folder / MANIFEST)
            if digest(folder / CONFIGURATION) == known[CONFIGURATION]:
                return folder / CONFIGURATION
        except (reading.Unreadable, FileNotFoundError, KeyError):
            continue
    return path / CONFIGURATION


def trained_frames(path: Path) -> int:
    """Frames of the newest checkpoint that says so, from which a run goes on; 0 without one."""
    for version in reversed(reading.versions(path / CHECKPOINTS)):
        with contextlib.suppress(reading.Unreadable, FileNotFoundError):
            progress = reading.read_object(path / CHECKPOINTS / str(version) / PROGRESS)
            frames: Any = progress.get("frames")
            if reading.is_count(frames):
                return int(frames)
    return 0


def forget_after(path: Path, frames: int) -> None:
    """Drops the lines of metrics.jsonl that a resumed run will write again.

    Args:
        path: of the run folder.
        frames: of the checkpoint that the run goes on from.
    """
    file = path / reading.METRICS
    try:
        kept, damaged = reading.lines_until(reading.content_of(file), frames)
    except FileNotFoundError:
        return
    if damaged:
        numbers = ", ".join(map(str, damaged[:5]))
        _log.warning("%s: line %s cannot be read, and stays as it is", file, numbers)
    replace_bytes(file, kept)


def _plain(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
