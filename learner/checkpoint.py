"""Checkpoints: arrays by orbax, made atomic by a rename and verifiable by a manifest."""

import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from agents.networks import Params
from learner import reading
from learner.loop import Progress
from learner.run_folder import CONFIGURATION, MANIFEST, PROGRESS, digest, write_error

# What a checkpoint holds: a named tuple of pytrees of arrays, fields that are None left out.
State = TypeVar("State", bound=tuple)

_log = logging.getLogger(__name__)
_EXPERIENCE = "experience.npz"
_LAST_WORDS_SECONDS = 1.0  # of tensorstore's threads, after an error
# orbax expands paths as patterns and takes some for addresses; tensorstore wants them as text.
_MISREAD = re.compile(r"[*?\[\\:\udc80-\udcff]")


class CheckpointError(Exception):
    """A checkpoint cannot be written, or none can be read; the message names them and says why."""


class Snapshot(NamedTuple):
    """What is needed to play as the agent did at some moment of its training."""

    params: Params


def open_snapshots(run_folder: Path) -> "Checkpoints":
    """Those of a run, at fixed frame counts; all are kept."""
    return Checkpoints(run_folder / "snapshots", sys.maxsize)


class Checkpoints:
    """The checkpoints of one run folder, each in a directory named by its learner updates."""

    def __init__(self, folder: Path, keep: int, configuration: str | None = None) -> None:
        """`configuration` of the run, as YAML, goes into each checkpoint that is saved."""
        self._folder, self._keep, self._configuration = folder, keep, configuration

    def versions(self) -> list[int]:
        """Learner updates of each complete checkpoint, oldest first."""
        return reading.versions(self._folder)

    def save(
        self,
        state: Any,
        progress: Progress,
        experience: dict[str, np.ndarray] | None = None,
    ) -> Path:
        """Writes a checkpoint beside the others, reads it back, then renames it into place.

        A process killed at any moment leaves either no new checkpoint or a whole one. Files of
        the manifest are hashed, so that `restore` can tell a damaged one.

        Raises:
            CheckpointError: its arrays cannot be written, or not be read back. The others stay.
            OSError: another part of it cannot be written.
        """
        version = progress.updates
        target = self._folder / str(version)
        if _holds(target, progress):
            return target
        self._folder.mkdir(exist_ok=True)  # not what is around it, which a user may have moved
        for stale in self._folder.glob("incomplete-*"):  # of a process that was killed
            _remove(stale)
        partial = (self._folder / f"incomplete-{version}").absolute()
        partial.mkdir()
        try:
            _write_arrays(partial, state)
            self._write_beside(partial, progress, experience)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # so that there is room to say what happened
            raise
        _remove(target)  # damaged, or of an earlier start of the run
        os.rename(partial, target)
        # Higher numbers can only be those that `restore` found damaged.
        versions = self.versions()
        whole = [v for v in versions if v <= version]
        for old in set(versions) - set(whole[-self._keep :]):
            _remove(self._folder / str(old))
        return target

    def _write_beside(
        self, partial: Path, progress: Progress, experience: dict[str, np.ndarray] | None
    ) -> None:
        """What stands beside the arrays; the manifest last."""
        (partial / PROGRESS).write_text(json.dumps(dataclasses.asdict(progress)))
        if self._configuration is not None:
            (partial / CONFIGURATION).write_text(self._configuration)
        if experience is not None:
            np.savez(partial / _EXPERIENCE, **experience)  # pyright: ignore[reportArgumentType]
        manifest = {name: digest(partial / name) for name in _files(partial)}
        (partial / MANIFEST).write_text(json.dumps(manifest))
        _flush(partial)

    def restore(self, like: State) -> tuple[State, Progress]:
        """The newest checkpoint that is whole; damaged newer ones are reported and passed over.

        Args:
            like: a state of the same structure, shapes and types, whose values are not used.

        Raises:
            CheckpointError: there is none.
        """
        problems = []
        for version in reversed(self.versions()):
            path = self._folder / str(version)
            try:
                return self._load(path, like)
            except CheckpointError as error:
                problems.append(f"{path}: {error}")
                _log.warning("checkpoint %s is damaged (%s); trying the one before", path, error)
        reason = "; ".join(problems) or f"{self._folder} holds none"
        raise CheckpointError(f"no usable checkpoint: {reason}")

    def load(self, version: int, like: State) -> tuple[State, Progress]:
        """One of `versions`.

        Raises:
            CheckpointError: it is damaged.
        """
        path = self._folder / str(version)
        try:
            return self._load(path, like)
        except CheckpointError as error:
            raise CheckpointError(f"{path} cannot be used: {error}") from error

    def forget_after(self, version: int) -> None:
        """Drops those that a resumed run will write again."""
        for later in self.versions():
            if later > version:
                _remove(self._folder / str(later))

    def experience(self, progress: Progress) -> dict[str, np.ndarray] | None:
        """What was saved beside the state that `restore` gave; None if nothing was."""
        path = self._folder / str(progress.updates) / _EXPERIENCE
        return dict(np.load(path, allow_pickle=False)) if path.exists() else None

    def _load(self, path: Path, like: State) -> tuple[State, Progress]:
        """Reads one, or raises a CheckpointError that says what is wrong with it."""
        if damage := _damage(path):
            raise CheckpointError(damage)
        return type(like)(**_read_arrays(path, _tree(like))), _progress(path)


def _write_arrays(folder: Path, state: Any) -> None:
    """Writes a state's arrays, and makes sure that they can be read.

    Raises:
        CheckpointError: they cannot be written, or what was written is something else.
    """
    tree = _tree(state)
    try:
        with _quiet(), _plainly_named(folder) as path, _checkpointer() as checkpointer:
            checkpointer.save(path / "state", tree)
    except Exception as error:  # OSError, ValueError and others, of a full disk as of all else
        raise CheckpointError(f"cannot write {folder}: {write_error(error)}") from error
    written = _read_arrays(folder, tree)
    same = jax.tree.map(
        lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), tree, written
    )
    if not all(jax.tree.leaves(same)):
        raise CheckpointError(f"cannot write {folder}: it does not hold what was written to it")


def _read_arrays(folder: Path, like: dict[str, Any]) -> dict[str, Any]:
    """Reads what `_write_arrays` wrote.

    Raises:
        CheckpointError: it holds something else.
    """
    try:
        with _quiet(), _plainly_named(folder) as path, _checkpointer() as checkpointer:
            return checkpointer.restore(path / "state", like)
    except Exception as error:  # orbax has none of its own
        raise CheckpointError(f"its arrays cannot be read: {write_error(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lets an error of orbax speak for itself.

    One array that cannot be written or read closes orbax's event loop, and tensorstore's threads
    print a traceback for every other one that they then cannot report to it.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    except Exception:
        time.sleep(_LAST_WORDS_SECONDS)
        raise
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def _plainly_named(folder: Path) -> Iterator[Path]:
    """An absolute path of a folder that orbax reads as it stands."""
    path = folder.absolute()
    if not _MISREAD.search(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="bmg-") as temporary:
        link = Path(temporary) / "checkpoint"
        link.symlink_to(path, target_is_directory=True)
        yield link


def _checkpointer() -> ocp.StandardCheckpointer:
    """Of host arrays, in this process alone: of several learner processes only one writes."""
    index = jax.process_index()
    return ocp.StandardCheckpointer(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=index, active_processes={index}, barrier_sync_key_prefix=str(index)
        )
    )


def _tree(state: Any) -> dict[str, Any]:
    """What is stored: host arrays under the names of the fields that a run has."""
    fields = jax.device_get(state)._asdict()
    return {name: value for name, value in fields.items() if value is not None}


def _progress(path: Path) -> Progress:
    """The counters of a checkpoint.

    Raises:
        CheckpointError: its file holds something else.
    """
    try:
        progress = Progress(**json.loads(reading.content_of(path / PROGRESS)))
        progress.recent = [(score, frames) for score, frames in progress.recent]
    except (reading.Unreadable, OSError, ValueError, TypeError, RecursionError):
        raise CheckpointError(f"{PROGRESS} cannot be read") from None
    counters = {name: value for name, value in vars(progress).items() if name != "recent"}
    numbers = [value for value in counters.values() if reading.is_number(value) and value >= 0]
    if len(numbers) < len(counters):
        raise CheckpointError(f"{PROGRESS} holds something else than counters")
    return progress


def _holds(path: Path, progress: Progress) -> bool:
    """Whether it is a whole checkpoint of this moment."""
    try:
        return path.exists() and _damage(path) is None and _progress(path) == progress
    except CheckpointError:
        return False


def _remove(path: Path) -> None:
    """Whatever it is, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    )


def _flush(folder: Path) -> None:
    """Makes a folder's contents durable before the rename makes them visible."""
    for name in [*_files(folder), MANIFEST]:
        descriptor = os.open(folder / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = reading.read_object(path / MANIFEST)
        if PROGRESS not in manifest:
            return f"{MANIFEST} does not say what it holds"
        for name, written in manifest.items():
            if digest(path / name) != written:
                return f"{name} has changed since it was written"
    except (reading.Unreadable, FileNotFoundError, ValueError) as error:  # a name can be no path
        return str(error)
    return None
