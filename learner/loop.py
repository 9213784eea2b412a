"""The learner's loop: batches in, parameters out, whatever makes the experience."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.profiler import TraceAnnotation

from agents.trajectory import SourceFailed

LEARNING = "learning; the first numbers come soon"  # what `Runtime.waits_for` says at last


class LearningDiverged(Exception):
    """A loss, a gradient or a parameter is not finite; the message says in which update."""


@dataclasses.dataclass
class Progress:
    """What a run has done, over all its restarts. Frames are emulator frames."""

    frames: int = 0
    env_steps: int = 0
    updates: int = 0
    episodes: int = 0
    seconds: float = 0.0
    starts: int = 0  # how often the run was started; makes each start's random streams its own
    # (score, emulator frames) of the newest episodes of this process, which means are taken over
    recent: list[tuple[float, int]] = dataclasses.field(default_factory=list)

    def copy(self) -> "Progress":
        """As it is now; the loop goes on counting."""
        return dataclasses.replace(self, recent=list(self.recent))


class LoopSettings(NamedTuple):
    """When to stop, log and checkpoint."""

    total_frames: int
    log_every_seconds: float
    checkpoint_every_seconds: float
    snapshot_every_frames: int = 0  # 0: no snapshots


class Batch(NamedTuple):
    """What one step of the learner learns from."""

    experience: Any  # on the learner's devices; None where a step plays for itself
    frames: int  # of all learner processes; with several seeds in one program, of each
    env_steps: int
    updates: int
    due: bool  # whether metrics should be written after it; all learner processes agree
    origin: Any = None  # what its runtime knows of it beside


class Runtime(Protocol):
    """What decides when and where it is played: the learner, and how its batches come about."""

    def start(self, state: Any, progress: Progress) -> Any:
        """Takes a state of host arrays to the learner's devices."""
        ...

    def next_batch(self, stop: Callable[[], bool], due: Callable[[], bool]) -> Batch | None:
        """Waits for a batch, while the step before runs; None when the run should stop first.

        Raises:
            SourceFailed: no batch will ever come.
        """
        ...

    def step(self, state: Any, batch: Batch, progress: Progress) -> Any:
        """Starts the next step; the batch is counted already. The state is donated."""
        ...

    def finish(self, batch: Batch, progress: Progress) -> None:
        """Waits for the step, and counts what only it has shown.

        Raises:
            LearningDiverged: it was not finite.
        """
        ...

    def require_good(self, state: Any, batch: Batch, progress: Progress) -> None:
        """Makes a step from a state, and drops it again. The state is donated.

        Raises:
            LearningDiverged: it would not be finite.
        """
        ...

    def line(self, progress: Progress) -> dict[str, Any]:
        """Metrics since the line before."""
        ...

    def waits_for(self) -> str:
        """Why there are no metrics yet, in words; may be asked by another thread."""
        ...

    def collect(self, state: Any) -> Any:
        """A state as host arrays."""
        ...

    def save(self) -> dict[str, np.ndarray] | None:
        """What a run needs beside the state to go on bit for bit; None: nothing, or it cannot."""
        ...


def _nothing(*given: Any) -> None:
    del given


@dataclasses.dataclass
class Events:
    """What is done with what the loop gives away."""

    on_metrics: Callable[[dict[str, Any]], None] = _nothing  # a flat dictionary
    # (state of host arrays, progress, what `Runtime.save` gave for it)
    on_checkpoint: Callable[[Any, Progress, dict[str, np.ndarray] | None], None] = _nothing
    on_snapshot: Callable[[Any, Progress], None] = _nothing
    before_step: Callable[[Progress], None] = _nothing


def run(
    runtime: Runtime,
    state: Any,
    progress: Progress,
    settings: LoopSettings,
    stop: Callable[[], bool],
    events: Events,
) -> Any:
    """Trains until `total_frames`, or until `stop()`; `progress` is counted up in place.

    The step is dispatched, then the next batch is fetched, assembled and sent to the device while
    it runs; only then is the step waited for. So at most one batch is learned from, one is ready
    and the source's own bound holds the rest.

    Parameters can be finite and so large that no update of them is. So a state is only given away
    as a checkpoint, or returned, once an update of it was finite.

    Args:
        runtime: the learner and what it learns from; not closed here.
        state: where to start; may be donated.
        progress: counters at the start.
        settings: when to end, log and checkpoint.
        stop: asked between steps and while waiting.
        events: get metrics each `log_every_seconds`, before each checkpoint and at the end; a
            checkpoint each `checkpoint_every_seconds`, a step later, but not at the end, unless
            the source fails; a snapshot after the step that reaches a multiple of
            `snapshot_every_frames`; and the counters before each step.

    Returns:
        The last state, as host arrays.

    Raises:
        SourceFailed: by the source; what was learned until then was given to `on_checkpoint`.
        LearningDiverged: a step was not finite, or one of the last state would not be.
    """
    state = runtime.start(state, progress)
    started = time.monotonic() - progress.seconds
    last_line = last_checkpoint = time.monotonic()

    def due() -> bool:
        now = time.monotonic()
        # A line before each checkpoint, so that none of a resumed run lacks a stretch.
        return (
            now - last_line >= settings.log_every_seconds
            or now - last_checkpoint >= settings.checkpoint_every_seconds
        )

    def next_batch() -> Batch | None:
        if progress.frames >= settings.total_frames:
            return None
        with TraceAnnotation("wait for batch"):
            return runtime.next_batch(stop, due)

    held: tuple[Any, Progress, dict[str, np.ndarray] | None] | None = None
    learned: Batch | None = None
    batch = next_batch()
    while batch is not None:
        learned = batch
        events.before_step(progress)
        progress.frames += learned.frames
        progress.env_steps += learned.env_steps
        progress.updates += learned.updates
        with TraceAnnotation("start step"):
            state = runtime.step(state, learned, progress)
        now = time.monotonic()
        saving = learned.due and now - last_checkpoint >= settings.checkpoint_every_seconds
        # Set before the next batch asks whether it is due.
        last_line = now if learned.due else last_line
        last_checkpoint = now if saving else last_checkpoint
        experience = runtime.save() if saving else None
        try:
            batch = next_batch()
        except SourceFailed:
            progress.seconds = time.monotonic() - started
            if jax.process_count() == 1:  # another process may be gone, and share no step
                with contextlib.suppress(LearningDiverged):
                    runtime.finish(learned, progress)
                    events.on_metrics(runtime.line(progress))
                    kept = _copy(runtime, state)
                    runtime.require_good(state, learned, progress)
                    events.on_checkpoint(kept, progress, None)
            raise
        with TraceAnnotation("wait for step"):
            runtime.finish(learned, progress)
        progress.seconds = time.monotonic() - started
        if learned.due:
            events.on_metrics(runtime.line(progress))
        every = settings.snapshot_every_frames
        if every and progress.frames // every > (progress.frames - learned.frames) // every:
            events.on_snapshot(state, progress)
        if held is not None:
            events.on_checkpoint(*held)
            held = None
        if saving:
            held = (_copy(runtime, state), progress.copy(), experience)
    last = _copy(runtime, state)
    if learned is not None:
        if not learned.due:
            events.on_metrics(runtime.line(progress))
        runtime.require_good(state, learned, progress)
    return last


def _copy(runtime: Runtime, state: Any) -> Any:
    """Host arrays of their own: the next step writes over what they may share with a device."""
    return jax.tree.map(np.array, runtime.collect(state))
