"""Checkpoints: arrays by orbax, made atomic by a rename and verifiable by a manifest."""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from agents.networks import Params
from learner.loop import Progress

# What a checkpoint holds: a named tuple of pytrees of arrays, fields that are None left out.
State = TypeVar("State", bound=tuple)

_log = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_EXPERIENCE = "experience.npz"


class CheckpointError(Exception):
    """No checkpoint can be used; the message says which were tried and why they failed."""


class Snapshot(NamedTuple):
    """What is needed to play as the agent did at some moment of its training."""

    params: Params


def open_snapshots(run_folder: Path) -> "Checkpoints":
    """Those of a run, at fixed frame counts; all are kept."""
    return Checkpoints(run_folder / "snapshots", sys.maxsize)


class Checkpoints:
    """The checkpoints of one run folder, each in a directory named by its learner updates."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def versions(self) -> list[int]:
        """Learner updates of each complete checkpoint, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted(int(p.name) for p in self._folder.iterdir() if p.name.isdigit())

    def save(
        self,
        state: Any,
        progress: Progress,
        experience: dict[str, np.ndarray] | None = None,
    ) -> Path:
        """Writes a checkpoint beside the others, then renames it into place.

        A process killed at any moment leaves either no new checkpoint or a whole one. Files of
        the manifest are hashed, so that `restore` can tell a damaged one.
        """
        version = progress.updates
        target = self._folder / str(version)
        if target.exists() and _damage(target) is None and _progress(target) == progress:
            return target
        self._folder.mkdir(parents=True, exist_ok=True)
        for stale in self._folder.glob("incomplete-*"):  # of a process that was killed
            shutil.rmtree(stale)
        partial = (self._folder / f"incomplete-{version}").absolute()
        partial.mkdir()
        with _checkpointer() as checkpointer:
            checkpointer.save(partial / "state", _tree(state))
        (partial / "progress.json").write_text(json.dumps(dataclasses.asdict(progress)))
        if experience is not None:
            np.savez(partial / _EXPERIENCE, **experience)  # pyright: ignore[reportArgumentType]
        manifest = {name: _digest(partial / name) for name in _files(partial)}
        (partial / _MANIFEST).write_text(json.dumps(manifest))
        _flush(partial)
        if target.exists():  # damaged, or of an earlier start of the run
            shutil.rmtree(target)
        os.rename(partial, target)
        # Higher numbers can only be those that `restore` found damaged.
        versions = self.versions()
        whole = [v for v in versions if v <= version]
        for old in set(versions) - set(whole[-self._keep :]):
            shutil.rmtree(self._folder / str(old))
        return target

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
            damage = _damage(path)
            if damage is None:
                return self._load(path, like)
            problems.append(f"{path}: {damage}")
            _log.warning("checkpoint %s is damaged (%s); trying the one before it", path, damage)
        reason = "; ".join(problems) or f"{self._folder} holds none"
        raise CheckpointError(f"no usable checkpoint: {reason}")

    def load(self, version: int, like: State) -> tuple[State, Progress]:
        """One of `versions`.

        Raises:
            CheckpointError: it is damaged.
        """
        path = self._folder / str(version)
        if damage := _damage(path):
            raise CheckpointError(f"{path} cannot be used: {damage}")
        return self._load(path, like)

    def forget_after(self, version: int) -> None:
        """Drops those that a resumed run will write again."""
        for later in self.versions():
            if later > version:
                shutil.rmtree(self._folder / str(later))

    def experience(self, progress: Progress) -> dict[str, np.ndarray] | None:
        """What was saved beside the state that `restore` gave; None if nothing was."""
        path = self._folder / str(progress.updates) / _EXPERIENCE
        return dict(np.load(path)) if path.exists() else None

    def _load(self, path: Path, like: State) -> tuple[State, Progress]:
        with _checkpointer() as checkpointer:
            state: Any = checkpointer.restore(path.absolute() / "state", _tree(like))
        return type(like)(**state), _progress(path)


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
    progress = Progress(**json.loads((path / "progress.json").read_text()))
    progress.recent = [(score, frames) for score, frames in progress.recent]
    return progress


def _files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != _MANIFEST
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _flush(folder: Path) -> None:
    """Makes a folder's contents durable before the rename makes them visible."""
    for name in [*_files(folder), _MANIFEST]:
        descriptor = os.open(folder / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        for name, digest in manifest.items():
            if _digest(path / name) != digest:
                return f"{name} has changed since it was written"
    except (OSError, ValueError) as error:
        return str(error)
    return None
