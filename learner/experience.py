"""Experience that comes from elsewhere: Ray actors, this process, a test; and from the replay."""

import collections
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from agents.algorithm import State
from agents.networks import Params
from agents.trajectory import SourceFailed, Trajectory, Unroll
from agents.update import Metrics
from learner.loop import LEARNING, Batch, LearningDiverged, Progress
from learner.processes import exchange
from learner.replay import Replay
from learner.step import Experience, Learner, all_finite

_RECENT_EPISODES = 100
_GOES_ON, _STOPS, _FAILS = 0, 1, 2  # what learner processes tell each other
_POLL_SECONDS = 0.5  # how often a learner that waits for experience looks whether it should stop


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


class FromSource:
    """A learner whose batches a source sends; see `learner.loop.Runtime`."""

    def __init__(
        self,
        learner: Learner,
        source: ExperienceSource,
        composition: Composition = ONE_NEW_BATCH,
        replay: Replay | None = None,
        *,
        max_gradient_norm: float = 0.0,
    ) -> None:
        """Begins nothing yet.

        Args:
            learner: the jitted step and its placement.
            source: of experience; not closed here.
            composition: what a step's experience is made of.
            replay: where old unrolls come from; must be there if the composition has any.
            max_gradient_norm: at which the learner clips, to count how often; 0: it does not.
        """
        self._learner, self._source = learner, source
        self._composition, self._replay = composition, replay
        self._max_norm = max_gradient_norm
        self._window = _Window(Progress())
        self._metrics: Metrics = {}  # of the newest step, which may still run
        self._has_batch = False  # whether one has ever come

    def start(self, state: State, progress: Progress) -> State:
        """Places a state, and publishes its parameters."""
        state = self._learner.place_state(state)
        self._publish(state, progress)
        self._window.restart(progress)
        return state

    def next_batch(self, stop: Callable[[], bool], due: Callable[[], bool]) -> Batch | None:
        """Waits for the unrolls of a batch and starts their transfer.

        Several learner processes agree on it: one that stops or fails ends the run for all.
        """
        begun = time.monotonic()
        unrolls = None
        try:
            while unrolls is None and not stop():
                unrolls = self._source.next_batch(_POLL_SECONDS)
        except SourceFailed:
            exchange([_FAILS, 0, 0, 0, 0], self._metrics)
            raise
        # Drop the arrays at once: with Ray they pin shared memory.
        light = [u._replace(trajectory=None) for u in unrolls or []]  # type: ignore[arg-type]
        counts = [sum(counted) for counted in zip(*map(_counted, light), strict=True)] or [0, 0, 0]
        intent = _STOPS if unrolls is None else _GOES_ON
        everybody = exchange([intent, *counts, due()], self._metrics)
        failed = np.flatnonzero(everybody[:, 0] == _FAILS)
        if len(failed):
            raise SourceFailed(f"learner process {failed[0]} failed; its own output says why")
        if unrolls is None or (everybody[:, 0] == _STOPS).any():
            return None
        self._has_batch = True
        experience = self._learner.place_batch(prepare(unrolls, self._composition, self._replay))
        frames, steps, episodes, due_somewhere = map(int, everybody[:, 1:].sum(axis=0))
        if self._metrics:  # a step runs
            self._window.waiting += time.monotonic() - begun
        updates = self._composition.online_batches
        return Batch(experience, frames, steps, updates, due_somewhere > 0, (light, episodes))

    def step(self, state: State, batch: Batch, progress: Progress) -> State:
        """Starts the next step, counts its unrolls and publishes what it will have made."""
        learner = self._learner
        diagnosis = learner.diagnose(state, batch.experience) if batch.due else {}
        if jax.process_count() > 1:
            jax.block_until_ready(diagnosis)  # see `exchange`
        state, metrics = learner.step(state, batch.experience)
        self._metrics = {**metrics, **diagnosis}
        self._count(batch, progress)
        self._publish(state, progress)
        return state

    def finish(self, batch: Batch, progress: Progress) -> None:
        """Waits for the step.

        Raises:
            LearningDiverged: it was not finite; the message names the batch's actors.
        """
        begun = time.monotonic()
        if not bool(self._metrics["finite"]):
            unrolls, _ = batch.origin
            actors = ", ".join(dict.fromkeys(unroll.actor for unroll in unrolls))
            raise LearningDiverged(
                f"update {progress.updates} was not finite and was not applied "
                f"({_losses(self._metrics)}); {_unplayable(batch.experience)}its batch came from "
                f"{actors}"
            )
        window = self._window
        window.learning += time.monotonic() - begun
        window.steps += 1
        if self._max_norm:
            window.clipped += float(self._metrics["loss/gradient_norm"]) > self._max_norm

    def require_good(self, state: State, batch: Batch, progress: Progress) -> None:
        """Makes an update of a state, on the newest batch, and drops it again."""
        _, metrics = self._learner.step(state, batch.experience)
        if not bool(metrics["finite"]):
            raise LearningDiverged(
                f"the parameters that update {progress.updates} made are no good: another update "
                f"of them would not be finite ({_losses(metrics)})"
            )

    def line(self, progress: Progress) -> dict[str, Any]:
        """The newest step's metrics, and means of what was counted since the line before."""
        values = {k: float(v) for k, v in jax.device_get(self._metrics).items() if k != "finite"}
        counted = self._window.metrics(progress)
        histogram = {"policy_lag_histogram": self._window.lag_histogram()}
        self._window.restart(progress)
        return {**counted, **values, **self._source.statistics(), **histogram}

    def waits_for(self) -> str:
        """As `learner.loop.Runtime`'s."""
        if self._metrics:
            return LEARNING
        if self._has_batch:
            return "compiling the learner's step"
        counts = self._source.statistics()
        alive, waiting = (int(counts.get(f"actors/{k}", 0)) for k in ("alive", "waiting"))
        if waiting:
            return f"{alive} of {alive + waiting} actors have started"
        return f"the first unrolls of {alive} actor{'s' if alive != 1 else ''}"

    def collect(self, state: State) -> State:
        """The state itself, which each device has."""
        return state

    def save(self) -> dict[str, np.ndarray] | None:
        """To be called before a batch is asked for that will not have been learned from."""
        saved = self._source.save() if jax.process_count() == 1 else None
        if saved is None:
            return None
        replayed = self._replay.save() if self._replay is not None else {}
        return {
            **{f"source/{name}": value for name, value in saved.items()},
            **{f"replay/{name}": value for name, value in replayed.items()},
        }

    def _publish(self, state: State, progress: Progress) -> None:
        self._source.publish(self._learner.snapshot(state.inner.params), progress.updates)

    def _count(self, batch: Batch, progress: Progress) -> None:
        unrolls, episodes = batch.origin
        each = len(unrolls) // batch.updates
        before = progress.updates - batch.updates
        progress.episodes += episodes
        for index, unroll in enumerate(unrolls):
            progress.recent += [(float(score), int(frames)) for score, frames in unroll.episodes]
            self._window.lags.append(before + index // each - unroll.version)
            self._window.stages.update(unroll.seconds)
        del progress.recent[:-_RECENT_EPISODES]


def _counted(unroll: Unroll) -> tuple[int, int, int]:
    return unroll.frames, unroll.steps, len(unroll.episodes)


def _unplayable(experience: Experience) -> str:
    """What of a batch the environments have given is not finite, in words."""
    parts = {"observations": experience.online.observation, "rewards": experience.online.reward}
    bad = [name for name, values in parts.items() if not bool(all_finite(values))]
    return f"{' and '.join(bad)} of its environments hold NaN or infinities; " if bad else ""


def _losses(metrics: Metrics) -> str:
    watched = ("loss/", "meta/loss", "meta/gradient_norm")
    return ", ".join(f"{k}={float(v):g}" for k, v in metrics.items() if k.startswith(watched))
