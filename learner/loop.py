"""The learner's loop: batches in, parameters out, whatever makes the experience."""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from agents.algorithm import State
from agents.networks import Params
from agents.trajectory import SourceFailed, Trajectory, Unroll
from agents.update import Metrics
from learner.processes import exchange
from learner.replay import Replay
from learner.step import Experience, Learner

_RECENT_EPISODES = 100
_GOES_ON, _STOPS, _FAILS = 0, 1, 2  # what learner processes tell each other
_POLL_SECONDS = 0.5  # how often a learner that waits for experience looks whether it should stop


class LearningDiverged(Exception):
    """A loss, a gradient or a parameter is not finite; the message says in which update."""


class ExperienceSource(Protocol):
    """Where experience comes from: Ray actors, this process, or a test."""

    def publish(self, params: Params, version: int) -> None:
        """Offers the parameters made by `version` updates to all unrolls that start from now on."""
        ...

    def next_batch(self, timeout_seconds: float) -> list[Unroll] | None:
        """The unrolls of one batch, or None when they are not complete within the time.

        Raises:
            SourceFailed: no batch will ever come.
        """
        ...

    def statistics(self) -> Mapping[str, float]:
        """Metrics of the source by their names in metrics.jsonl (`actors/alive`, ...)."""
        ...

    def save(self) -> dict[str, np.ndarray] | None:
        """All that decides what is played next, as arrays by name; None if it cannot be saved."""
        ...

    def close(self) -> None:
        """Ends whatever makes the experience. May be called twice."""
        ...


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
    max_gradient_norm: float = 0.0  # at which the learner clips, to count how often; 0: it does not


class Composition(NamedTuple):
    """What the experience of one step is made of."""

    online_batches: int = 1  # batches, and so updates, in a step; the source sends them together
    replayed: int = 0  # unrolls of each such batch that come from the replay, beside the new ones
    bootstrap_batches: int = 0  # further batches, wholly from the replay, for the target alone

    @property
    def needs_replay(self) -> bool:
        """Whether anything is replayed."""
        return self.replayed > 0 or self.bootstrap_batches > 0


ONE_NEW_BATCH = Composition()


class _Batch(NamedTuple):
    experience: Experience  # on the learner's devices
    unrolls: list[Unroll]  # new ones of this process, without their arrays
    frames: int  # of all learner processes
    steps: int
    episodes: int
    due: bool  # whether metrics should be written after it; all learner processes agree


class _Window:
    """What is averaged between two log lines."""

    def __init__(self, progress: Progress) -> None:
        self.restart(progress)

    def restart(self, progress: Progress) -> None:
        self.start = time.monotonic()
        self.start_frames, self.start_updates = progress.frames, progress.updates
        self.lags: list[int] = []
        self.waiting = 0.0  # seconds without a batch to learn from
        self.stages: collections.Counter[str] = collections.Counter()  # seconds of the actors
        self.learning = 0.0  # seconds of waiting for the step after the next batch was ready
        self.steps = self.clipped = 0  # of the learner; those whose gradient was clipped

    def metrics(self, progress: Progress) -> dict[str, float | None]:
        seconds = max(time.monotonic() - self.start, 1e-9)
        updates = max(progress.updates - self.start_updates, 1)
        scores = [score for score, _ in progress.recent]
        lengths = [frames for _, frames in progress.recent]
        return {
            "frames": progress.frames,
            "env_steps": progress.env_steps,
            "learner_updates": progress.updates,
            "seconds": round(progress.seconds, 3),
            "frames_per_second": (progress.frames - self.start_frames) / seconds,
            "episode_return": float(np.mean(scores)) if scores else None,
            "episode_length": float(np.mean(lengths)) if lengths else None,
            "episodes": progress.episodes,
            "policy_lag": float(np.mean(self.lags)) if self.lags else None,
            "policy_lag_max": max(self.lags, default=None),
            "loss/clipped": self.clipped / self.steps if self.steps else None,
            "time/wait_for_batch": self.waiting / updates,
            "time/wait_for_step": self.learning / updates,
            **{f"time/actors_{stage}": s / updates for stage, s in self.stages.items()},
        }

    def lag_histogram(self) -> dict[str, int]:
        """Unrolls by policy lag in learner updates, since the last log line."""
        return {str(lag): n for lag, n in sorted(collections.Counter(self.lags).items())}


def _join(trajectories: Sequence[Trajectory]) -> Trajectory:
    """Joins trajectories along the batch axis, in host memory."""
    if len(trajectories) == 1:
        return trajectories[0]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *trajectories)


def _stack(trajectories: Sequence[Trajectory]) -> Trajectory:
    """Gives trajectories a leading axis; a single one is not copied."""
    if len(trajectories) == 1:
        return jax.tree.map(lambda x: x[None], trajectories[0])
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trajectories)


def prepare(
    unrolls: Sequence[Unroll], composition: Composition, replay: Replay | None
) -> Experience:
    """Makes one step's experience of new unrolls and of the replay, which then gets the new ones.

    Only the first step of a run replays what it has just been sent.

    Args:
        unrolls: of all new batches of the step.
        composition: what the step's experience is made of.
        replay: must be there if anything is replayed.
    """
    each = len(unrolls) // composition.online_batches
    batches = [
        _join([u.trajectory for u in unrolls[i * each : (i + 1) * each]])
        for i in range(composition.online_batches)
    ]
    if replay is None:
        return Experience(_stack(batches), None)
    fresh = batches if len(replay) == 0 else []
    for batch in fresh:
        replay.add(batch)
    size = batches[0].action.shape[1] + composition.replayed
    mixed = [
        _join([b, replay.sample(composition.replayed)]) if composition.replayed else b
        for b in batches
    ]
    further = [replay.sample(size) for _ in range(composition.bootstrap_batches)]
    if not fresh:
        for batch in batches:
            replay.add(batch)
    return Experience(_stack(mixed), _stack(further) if further else None)


def _next_batch(
    learner: Learner,
    source: ExperienceSource,
    composition: Composition,
    replay: Replay | None,
    stop: Callable[[], bool],
    due: Callable[[], bool],
    running: Metrics,
) -> _Batch | None:
    """Waits for a batch and starts its transfer; None when the run should stop first.

    Several learner processes agree on that: one that stops or fails ends the run for all.
    """
    unrolls = None
    try:
        while unrolls is None and not stop():
            unrolls = source.next_batch(_POLL_SECONDS)
    except SourceFailed:
        exchange([_FAILS, 0, 0, 0, 0], running)
        raise
    # Drop the arrays at once: with Ray they pin shared memory.
    light = [u._replace(trajectory=None) for u in unrolls or []]  # type: ignore[arg-type]
    counts = [sum(counted) for counted in zip(*map(_counted, light), strict=True)] or [0, 0, 0]
    mood = _STOPS if unrolls is None else _GOES_ON
    everybody = exchange([mood, *counts, due()], running)
    failed = np.flatnonzero(everybody[:, 0] == _FAILS)
    if len(failed):
        raise SourceFailed(f"learner process {failed[0]} failed; its own output says why")
    if unrolls is None or (everybody[:, 0] == _STOPS).any():
        return None
    experience = learner.place_batch(prepare(unrolls, composition, replay))
    frames, steps, episodes, due_somewhere = map(int, everybody[:, 1:].sum(axis=0))
    return _Batch(experience, light, frames, steps, episodes, due_somewhere > 0)


def _counted(unroll: Unroll) -> tuple[int, int, int]:
    return unroll.frames, unroll.steps, len(unroll.episodes)


def _count(progress: Progress, window: _Window, batch: _Batch, composition: Composition) -> None:
    each = len(batch.unrolls) // composition.online_batches
    progress.frames += batch.frames
    progress.env_steps += batch.steps
    progress.episodes += batch.episodes
    for index, unroll in enumerate(batch.unrolls):
        progress.recent += [(float(score), int(frames)) for score, frames in unroll.episodes]
        window.lags.append(progress.updates + index // each - unroll.version)
        window.stages.update(unroll.seconds)
    del progress.recent[:-_RECENT_EPISODES]
    progress.updates += composition.online_batches


def _require_finite(metrics: Metrics, progress: Progress, batch: _Batch) -> None:
    if bool(metrics["finite"]):
        return
    actors = ", ".join(dict.fromkeys(unroll.actor for unroll in batch.unrolls))
    raise LearningDiverged(
        f"update {progress.updates} was not finite and was not applied ({_losses(metrics)}); "
        f"its batch came from {actors}"
    )


def _losses(metrics: Metrics) -> str:
    watched = ("loss/", "meta/loss", "meta/gradient_norm")
    return ", ".join(f"{k}={float(v):g}" for k, v in metrics.items() if k.startswith(watched))


def _require_good(learner: Learner, state: State, progress: Progress, batch: _Batch) -> None:
    """Makes an update of the last state, on the newest batch, and drops it again."""
    _, metrics = learner.step(jax.tree.map(jnp.copy, state), batch.experience)
    if not bool(metrics["finite"]):
        raise LearningDiverged(
            f"the parameters that update {progress.updates} made are no good: another update of "
            f"them would not be finite ({_losses(metrics)})"
        )


def save_experience(
    source: ExperienceSource, replay: Replay | None
) -> dict[str, np.ndarray] | None:
    """What a run needs beside the learner's state to go on bit for bit; None: it cannot.

    To be called before the source is asked for a batch that will not have been learned from.
    """
    saved = source.save() if jax.process_count() == 1 else None
    if saved is None:
        return None
    replayed = replay.save() if replay is not None else {}
    return {
        **{f"source/{name}": value for name, value in saved.items()},
        **{f"replay/{name}": value for name, value in replayed.items()},
    }


def run(
    learner: Learner,
    state: State,
    source: ExperienceSource,
    progress: Progress,
    settings: LoopSettings,
    *,
    composition: Composition = ONE_NEW_BATCH,
    replay: Replay | None = None,
    stop: Callable[[], bool],
    on_metrics: Callable[[dict], None],
    on_checkpoint: Callable[[State, Progress, dict[str, np.ndarray] | None], None],
    on_snapshot: Callable[[State, Progress], None] = lambda state, progress: None,
) -> State:
    """Trains until `total_frames`, or until `stop()`; `progress` is counted up in place.

    The step is dispatched, then the next batch is fetched, assembled and sent to the device while
    it runs; only then is the step waited for. So at most one batch is learned from, one is ready
    and the source's own bound holds the rest.

    Parameters can be finite and so large that no update of them is. So a state is only given away
    as a checkpoint, or returned, once an update of it was finite.

    Args:
        learner: the jitted step and its placement.
        state: where to start; donated.
        source: of experience; not closed here.
        progress: counters at the start.
        settings: when to end, log and checkpoint.
        composition: what a step's experience is made of.
        replay: where old unrolls come from; must be there if the composition has any.
        stop: asked between updates and while waiting.
        on_metrics: gets a flat dictionary each `log_every_seconds`, and at the end.
        on_checkpoint: gets the state and what `save_experience` gave for it, each
            `checkpoint_every_seconds`, an update later; not at the end, unless the source fails.
        on_snapshot: gets the state after the update that reaches a multiple of
            `snapshot_every_frames`.

    Raises:
        SourceFailed: by the source; what was learned until then was given to `on_checkpoint`.
        LearningDiverged: an update was not finite, or one of the last state would not be.
    """
    state = learner.place_state(state)
    source.publish(learner.snapshot(state.inner.params), progress.updates)
    started = time.monotonic() - progress.seconds
    window = _Window(progress)
    last_checkpoint = time.monotonic()
    metrics: Metrics = {}

    def report() -> None:
        values = {k: float(v) for k, v in jax.device_get(metrics).items() if k != "finite"}
        counted = window.metrics(progress)
        on_metrics(
            {
                **counted,
                **values,
                **source.statistics(),
                "policy_lag_histogram": window.lag_histogram(),
            }
        )
        window.restart(progress)

    def due() -> bool:
        now = time.monotonic()
        # If the batch before is due, its line is written before this one is learned from.
        start = now if batch is not None and batch.due else window.start
        return now - start >= settings.log_every_seconds

    def next_batch() -> _Batch | None:
        if progress.frames >= settings.total_frames:
            return None
        return _next_batch(learner, source, composition, replay, stop, due, metrics)

    held: tuple[State, Progress, dict[str, np.ndarray] | None] | None = None
    learned: _Batch | None = None
    batch: _Batch | None = None
    batch = next_batch()
    while batch is not None:
        diagnosis = learner.diagnose(state, batch.experience) if batch.due else {}
        if jax.process_count() > 1:
            jax.block_until_ready(diagnosis)  # see `exchange`
        state, metrics = learner.step(state, batch.experience)
        metrics = {**metrics, **diagnosis}
        learned = batch
        _count(progress, window, learned, composition)
        source.publish(learner.snapshot(state.inner.params), progress.updates)
        dispatched = time.monotonic()
        saving = dispatched - last_checkpoint >= settings.checkpoint_every_seconds
        experience = save_experience(source, replay) if saving else None
        try:
            batch = next_batch()
        except SourceFailed:
            progress.seconds = time.monotonic() - started
            if jax.process_count() == 1:  # another process may be gone, and share no step
                with contextlib.suppress(LearningDiverged):
                    _require_finite(metrics, progress, learned)
                    report()
                    _require_good(learner, state, progress, learned)
                    on_checkpoint(state, progress, None)
            raise
        fetched = time.monotonic()
        _require_finite(metrics, progress, learned)  # waits for the step
        now = time.monotonic()
        window.steps += 1
        if settings.max_gradient_norm:
            norm = float(metrics["loss/gradient_norm"])
            window.clipped += norm > settings.max_gradient_norm
        window.waiting += fetched - dispatched
        window.learning += now - fetched
        progress.seconds = now - started
        if learned.due:
            report()
        every = settings.snapshot_every_frames
        if every and progress.frames // every > (progress.frames - learned.frames) // every:
            on_snapshot(state, progress)
        if held is not None:
            on_checkpoint(*held)
            held = None
        if saving:
            # A real copy: the next step writes over what the host may share with the device.
            held = (jax.tree.map(np.array, state), progress.copy(), experience)
            last_checkpoint = time.monotonic()
    if window.lags:  # updates since the last line
        report()
    if learned is not None:
        _require_good(learner, state, progress, learned)
    return state
