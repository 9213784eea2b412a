"""Many seeds in one program: environment, learner and meta-learner of each, side by side.

Each seed is a run of its own. On CPUs a core takes one seed after the other through a thousand
steps, so that one seed's weights stay in its cache, and its numbers do not depend on how many
others there are (but for rounding, where it is alone); elsewhere a device's seeds are vectorised.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agents.algorithm import Algorithm, MetaState, State, is_of_meta_update
from agents.update import Metrics
from learner.loop import LEARNING, Batch, LearningDiverged, Progress
from learner.step import all_finite


class SeedsState(NamedTuple):
    """All that a step changes, and all that a checkpoint holds; leading axis S, a row a seed."""

    inner: Any  # as the update takes it; it has a `tally`, which a step begins with zeros
    key: jax.Array  # [S, 2] uint32, of each seed's random numbers
    meta: MetaState | None = None  # None where nothing is learned but the parameters


# A metric of Q(lambda)'s meta-updates that `seeds.npz` keeps too.
_GREEDY_CHANGES = "meta/greedy_changes"
_GRADIENT = "meta/gradient/"


_OF_EPISODES = ("episode_returns", "episode_steps")  # sums, beside their count


class SeedsLearner(NamedTuple):
    """The step of all seeds and what places its state. `step` donates its state."""

    step: Callable[[SeedsState], tuple[SeedsState, Metrics]]  # metrics: [S] each
    initial_state: Callable[[], SeedsState]
    place: Callable[[SeedsState], SeedsState]  # of `seeds` rows, as a checkpoint has them
    collect: Callable[[SeedsState], SeedsState]  # the other way: host arrays of `seeds` rows
    seeds: tuple[int, ...]
    steps: int  # environment steps of each seed in one step of the learner
    updates: int  # and updates


def make_seeds_learner(
    algorithm: Algorithm,
    *,
    seeds: Sequence[int],
    devices: Sequence[Any],
    steps_per_update: int,
    cycles: int,
    data: Any = None,
    examine: Callable[[State, jax.Array, Any], Metrics] | None = None,
) -> SeedsLearner:
    """Builds the jitted step: `cycles` steps of the algorithm for every seed.

    Args:
        algorithm: whose inputs are random keys.
        seeds: each determines all random numbers of its run.
        devices: of jax, which share the seeds; some compute a seed twice if they do not divide.
        steps_per_update: environment steps of one update.
        cycles: in one step of the learner; a point of the learning curve each.
        data: host arrays that all seeds read; each step of the algorithm gets them as its third
            argument.
        examine: (state, key, data) to further metrics of the state at the end of a point, under
            names for which `_is_examined` holds.
    """
    updates = cycles * algorithm.online
    mesh = Mesh(np.asarray(devices), ("seeds",))
    rows = PartitionSpec("seeds")
    sharding = NamedSharding(mesh, rows)
    padding = -len(seeds) % len(devices)
    on_cpu = devices[0].platform == "cpu"

    def one_seed(state: SeedsState, data: Any) -> tuple[SeedsState, Metrics]:
        keys = jax.random.split(jax.random.wrap_key_data(state.key), 1 + updates)
        inner = state.inner._replace(tally=jax.tree.map(jnp.zeros_like, state.inner.tally))

        def body(carry: State, keys: jax.Array) -> tuple[State, Metrics]:
            carry, metrics = algorithm.step(carry, keys, data)
            return carry, {name: v for name, v in metrics.items() if is_of_meta_update(name)}

        # What depends on the number of updates has its own counter (agents/playing.py).
        start = State(inner, jnp.zeros((), jnp.int32), state.meta)
        end, of_cycles = jax.lax.scan(body, start, keys[1:].reshape(cycles, algorithm.online))
        finite = all_finite((end.inner.inner, end.meta))
        metrics = {**end.inner.tally, "finite": finite}
        metrics |= {name: jnp.mean(values) for name, values in of_cycles.items()}
        if examine is not None:
            metrics |= examine(end, jax.random.fold_in(keys[0], 1), data)
        return SeedsState(end.inner, jax.random.key_data(keys[0]), end.meta), metrics

    def over_seeds(state: SeedsState, data: Any) -> tuple[SeedsState, Metrics]:
        if on_cpu:
            return jax.lax.map(lambda of_seed: one_seed(of_seed, data), state)
        return jax.vmap(one_seed, in_axes=(0, None))(state, data)

    def first(seed: jax.Array) -> SeedsState:
        key, start = jax.random.split(jax.random.key(seed))
        first = algorithm.init(start)
        return SeedsState(first.inner, jax.random.key_data(key), first.meta)

    def place(state: SeedsState) -> SeedsState:
        def pad(x: Any) -> Any:
            return np.concatenate([x, np.repeat(np.asarray(x[-1:]), padding, axis=0)])

        return jax.device_put(jax.tree.map(pad, state), sharding)

    everywhere = PartitionSpec()
    sharded = jax.shard_map(
        over_seeds, mesh=mesh, in_specs=(rows, everywhere), out_specs=rows, check_vma=False
    )
    step = jax.jit(sharded, donate_argnums=0)
    shared = jax.device_put(data, NamedSharding(mesh, everywhere))
    return SeedsLearner(
        step=lambda state: step(state, shared),
        initial_state=lambda: jax.device_get(jax.jit(jax.vmap(first))(jnp.asarray(seeds))),
        place=place,
        collect=lambda state: jax.tree.map(lambda x: x[: len(seeds)], jax.device_get(state)),
        seeds=tuple(seeds),
        steps=updates * steps_per_update,
        updates=updates,
    )


class CurvePoint(NamedTuple):
    """What one step of the learner adds to the learning curves."""

    frames: int  # environment steps of each seed at its end
    reward: np.ndarray | None  # [S], collected in it; None where there are tasks and no rewards
    hyperparameters: dict[str, np.ndarray]  # [S] each, means over its updates
    greedy_changes: np.ndarray | None = None  # [S], mean over its meta-updates
    # [S], mean over the episodes that ended in it, NaN where none did; None without episodes
    episode_return: np.ndarray | None = None
    examined: Mapping[str, np.ndarray] = MappingProxyType({})  # [S] each, of the state at its end
    # [S] each, norms of meta-gradients by hyper-parameter, means over its meta-updates
    gradients: Mapping[str, np.ndarray] = MappingProxyType({})


class OnDevice:
    """A learner whose steps play for themselves, for many seeds; see `learner.loop.Runtime`.

    Frames and updates are those of each seed; metrics are means over seeds, and over the steps
    since the line before; their rate is that of all seeds together.
    """

    def __init__(
        self, learner: SeedsLearner, on_point: Callable[[CurvePoint], None] = lambda point: None
    ) -> None:
        """`on_point` gets what every step adds to the learning curves."""
        self._learner, self._on_point = learner, on_point
        self._running: Metrics = {}  # of the newest step
        self._since: list[dict[str, np.ndarray]] = []  # [S] each; since the line before
        self._last_line = time.monotonic()

    def start(self, state: SeedsState, progress: Progress) -> SeedsState:
        """Takes host arrays of `seeds` rows to the devices."""
        del progress
        self._last_line = time.monotonic()
        return self._learner.place(state)

    def next_batch(self, stop: Callable[[], bool], due: Callable[[], bool]) -> Batch | None:
        """Nothing but the decision to go on: a step makes its own experience."""
        learner = self._learner
        return None if stop() else Batch(None, learner.steps, learner.steps, learner.updates, due())

    def step(self, state: SeedsState, batch: Batch, progress: Progress) -> SeedsState:
        """Starts the next step."""
        del batch, progress
        state, self._running = self._learner.step(state)
        return state

    def finish(self, batch: Batch, progress: Progress) -> None:
        """Waits for the step and gives its point away.

        Raises:
            LearningDiverged: parameters were not finite any more; the message names the seeds.
        """
        metrics = self._rows(self._running)
        self._require_finite(metrics, progress.updates - batch.updates)
        values = {k: v / metrics["updates"] for k, v in metrics.items() if _is_value(k)}
        changes, returns = metrics.get(_GREEDY_CHANGES), _episode_return(metrics)
        examined = {k: v for k, v in metrics.items() if _is_examined(k)}
        reward = metrics.get("reward")
        gradients = {
            k.removeprefix(_GRADIENT): v for k, v in metrics.items() if k.startswith(_GRADIENT)
        }
        self._on_point(
            CurvePoint(progress.frames, reward, values, changes, returns, examined, gradients)
        )
        progress.episodes += int(np.sum(metrics.get("episodes", 0.0)))
        self._since.append(metrics)

    def require_good(self, state: SeedsState, batch: Batch, progress: Progress) -> None:
        """Makes a step from a state, and drops it again."""
        del batch
        _, metrics = self._learner.step(state)
        self._require_finite(self._rows(metrics), progress.updates)

    def line(self, progress: Progress) -> dict[str, Any]:
        """Means over seeds and over the steps since the line before."""
        now = time.monotonic()
        line = _line(self._since, self._learner, progress, now - self._last_line)
        self._since, self._last_line = [], now
        return line

    def waits_for(self) -> str:
        """As `learner.loop.Runtime`'s."""
        count = len(self._learner.seeds)
        of = f" of {count} seeds" if count > 1 else ""
        return LEARNING if self._running else f"compiling the program{of}"

    def collect(self, state: SeedsState) -> SeedsState:
        """Host arrays of `seeds` rows."""
        return self._learner.collect(state)

    def save(self) -> None:
        """Nothing: environments and random keys are part of the state."""
        return None

    def _rows(self, metrics: Metrics) -> dict[str, np.ndarray]:
        """On the host, without those of seeds that are computed twice."""
        count = len(self._learner.seeds)
        return {k: v[:count] for k, v in jax.device_get(metrics).items()}

    def _require_finite(self, metrics: Mapping[str, np.ndarray], updates: int) -> None:
        seeds = zip(self._learner.seeds, metrics["finite"], strict=True)
        if bad := [seed for seed, finite in seeds if not finite]:
            raise LearningDiverged(
                f"seed {', '.join(map(str, bad))} was not finite any more between updates "
                f"{updates} and {updates + self._learner.updates}"
            )


def _is_value(name: str) -> bool:
    return name.startswith("meta/") and not is_of_meta_update(name)


def _is_examined(name: str) -> bool:
    """Whether a metric is of the state at the end of a point."""
    return name.startswith("validation/") or name == "meta/cosine"


def _episode_return(metrics: Mapping[str, np.ndarray]) -> np.ndarray | None:
    if "episodes" not in metrics:
        return None
    count = np.asarray(metrics["episodes"])
    sums = np.asarray(metrics["episode_returns"])
    return np.divide(sums, count, out=np.full_like(sums, np.nan), where=count > 0)


def _line(
    since: Sequence[Mapping[str, np.ndarray]],
    learner: SeedsLearner,
    progress: Progress,
    seconds: float,
) -> dict[str, Any]:
    """Means over seeds, and over the steps of the learner since the line before."""
    means = {k: float(np.mean([m[k] for m in since])) for k in since[0]}
    episodes = means.get("episodes", 0.0)
    per_episode = {k: means[k] / episodes if episodes else None for k in _OF_EPISODES if k in means}
    of_updates = [k for k in means if k.startswith("loss/") or _is_value(k)]
    return {
        "frames": progress.frames,
        "env_steps": progress.env_steps,
        "learner_updates": progress.updates,
        "seconds": round(progress.seconds, 3),
        "frames_per_second": learner.steps * len(since) * len(learner.seeds) / max(seconds, 1e-9),
        "episode_return": per_episode.get("episode_returns"),
        "episode_length": per_episode.get("episode_steps"),
        "episodes": progress.episodes,
        "policy_lag": 0.0,
        "actors/alive": 0,
        "actors/restarts": 0,
        "seeds": len(learner.seeds),
        **({"reward_per_step": means["reward"] / learner.steps} if "reward" in means else {}),
        **{k: float(np.mean(since[-1][k])) for k in means if _is_examined(k)},
        **{k: means[k] for k in means if is_of_meta_update(k) and not _is_examined(k)},
        **{k: means[k] / learner.updates for k in of_updates},
    }
