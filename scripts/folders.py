"""Which folder a run goes into: checked before anything starts, made, and held while it trains."""

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from configs.load import ConfigError
from learner.run_folder import CONFIGURATION, LOCK, RunLocked, locked
from scripts import signals

_FILES = ("config.yaml", "metrics.jsonl", "summary.json", "log.txt", "seeds.npz", LOCK)


def require_run(run_dir: str | Path) -> None:
    """Refuses a folder that holds no run.

    Raises:
        ConfigError: one line.
    """
    if not os.path.isfile(Path(run_dir) / CONFIGURATION):
        raise ConfigError(f"{run_dir} holds no run (no {CONFIGURATION}); give a run folder")


def check_run_folder(path: Path, *, resume: bool) -> None:
    """Refuses a folder that cannot be written, or that holds a run which would be overwritten.

    Raises:
        ConfigError: one line that says what to change.
    """
    for name in _FILES:
        if os.path.lexists(path / name) and not os.path.isfile(path / name):
            raise ConfigError(f"--run-dir {path}: its {name} is no file; move it away")
    check_folder(
        path,
        resume=resume,
        option="--run-dir",
        kind="run",
        marker="config.yaml",
        ignored=(LOCK, "config.yaml.partial"),
    )


def check_folder(
    path: Path,
    *,
    resume: bool,
    option: str,
    kind: str,
    marker: str,
    ignored: tuple[str, ...] = (),
) -> None:
    """Refuses a folder that cannot be written, or whose content would be overwritten.

    Args:
        path: need not exist.
        resume: it must hold what should go on; else it must hold nothing.
        option: that named the folder.
        kind: what goes into it.
        marker: the file that such a thing has.
        ignored: names that may be there all the same.

    Raises:
        ConfigError: one line that says what to change.
    """
    try:
        if resume and not (path / marker).is_file():
            raise ConfigError(f"--resume: {path} holds no {kind}; leave --resume out to start one")
        if (
            not resume
            and path.exists()
            and (not path.is_dir() or any(p.name not in ignored for p in path.iterdir()))
        ):
            raise ConfigError(
                f"{option} {path}: it exists already; --resume goes on with it, or give another "
                "folder"
            )
        existing = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
        # Permissions do not tell all: root may write everywhere, but not to every file system.
        os.rmdir(tempfile.mkdtemp(dir=existing))
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: cannot be written ({error.strerror}); give another folder"
        ) from None


@contextlib.contextmanager
def new_folder(name: str) -> Iterator[Path]:
    """A folder under runs/ that no other process has; it goes again if nothing is put into it.

    Raises:
        ConfigError: it cannot be made.
    """
    stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    missing = [parent for parent in stem.parents if not parent.exists()]
    names = itertools.chain(
        [stem], (stem.with_name(f"{stem.name}-{n}") for n in itertools.count(1))
    )
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        path = next(path for path in names if _is_made(path))
    except OSError as error:
        raise ConfigError(f"{stem}: cannot be made ({error.strerror}); give a --run-dir") from None

    def remove() -> None:
        with contextlib.suppress(OSError):  # raised where it holds something
            for folder in [path, *missing]:
                folder.rmdir()

    with signals.undone(remove):
        yield path


def _is_made(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def hold(path: Path, resume: bool) -> Iterator[None]:
    """Holds the run folder while training.

    Raises:
        ConfigError: another process does, or has left a run in it since `check_run_folder`.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except RunLocked:
            raise ConfigError(
                f"--run-dir {path}: another process trains into it; wait for it, or end it first"
            ) from None
        check_run_folder(path, resume=resume)
        yield
