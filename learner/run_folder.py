"""A run folder: configuration, metrics, summary, TensorBoard. Knows no algorithm."""

import contextlib
import errno
import fcntl
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

Status = Literal["running", "finished", "interrupted", "failed"]

LOCK = ".lock"  # in a run folder
# Of file systems that know no locks, as some of clusters.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class RunFolder:
    """Writes what users and their scripts read (docs/run_folder.md)."""

    def __init__(self, path: Path, *, tensorboard: bool) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._metrics = (path / "metrics.jsonl").open("a+", buffering=1)
        self._metrics.seek(0)
        lines = self._metrics.readlines()  # of earlier starts of the run
        self._latest: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # 0.3 s, only where it is wanted

            self._events = SummaryWriter(str(path / "tensorboard"))

    def log(self, metrics: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl, and its scalars to TensorBoard at `frames`."""
        self._latest = metrics
        self._metrics.write(json.dumps(_plain(metrics), allow_nan=False) + "\n")
        if self._events is not None:
            for name, value in metrics.items():
                if isinstance(value, (int, float)):
                    self._events.add_scalar(name, value, metrics["frames"])
            self._events.flush()

    def write_summary(self, status: Status, **facts: Any) -> None:
        """Replaces summary.json by the last metrics, the status and `facts`, atomically."""
        write_json(self.path / "summary.json", {"status": status, **self._latest, **facts})

    def close(self) -> None:
        """Closes the files; the folder stays."""
        self._metrics.close()
        if self._events is not None:
            self._events.close()


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
    replace_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


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
