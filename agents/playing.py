"""An algorithm that plays what it learns from, on its own device.

`playing` lifts an algorithm whose inputs are batches of trajectories to one whose inputs are random
keys: IMPALA, STACX and BMG are then trained without actors, and any number of them side by side.
It plays *before* each step; an agent that plays between the updates of a step is on-policy
(agents/on_policy.py).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents.algorithm import Algorithm, State, is_of_meta_update
from agents.networks import Params
from agents.trajectory import Trajectory
from agents.update import Metrics


class Episodes(NamedTuple):
    """Sums over the episodes that have ended, [] float32 each."""

    ended: jax.Array  # how many
    returns: jax.Array  # of unclipped rewards
    steps: jax.Array


class PlayingState(NamedTuple):
    """A learner's state and its environments."""

    inner: State  # the algorithm's own
    environment: Any
    tally: Metrics  # sums over updates since they were last cleared


# (parameters, environments, key) -> (environments, trajectory [T, B], episodes that ended in it)
Unroll = Callable[[Params, Any, jax.Array], tuple[Any, Trajectory, Episodes]]


def playing(algorithm: Algorithm, reset: Callable[[jax.Array], Any], unroll: Unroll) -> Algorithm:
    """Lifts an algorithm of trajectories to one whose inputs are a key for each of its updates.

    All batches of a step are played by the parameters before it, so the K-th has a policy lag of
    K - 1 updates, as with actors.

    Args:
        algorithm: takes its batches from the environment alone (`further` is 0).
        reset: from a key to the environments' first states.
        unroll: plays a batch.
    """
    if algorithm.further:
        raise ValueError("an algorithm that plays for itself has no replay for its target")

    def play(state: PlayingState, keys: Any) -> tuple[Any, Trajectory, Episodes]:
        params = state.inner.inner.params

        def one(environment: Any, key: jax.Array) -> tuple[Any, tuple[Trajectory, Episodes]]:
            environment, trajectory, episodes = unroll(params, environment, key)
            return environment, (trajectory, episodes)

        environment, (batches, episodes) = jax.lax.scan(one, state.environment, keys)
        return environment, batches, jax.tree.map(jnp.sum, episodes)

    def learn(state: PlayingState, keys: Any) -> tuple[PlayingState, Metrics, Metrics]:
        """The next state, and the metrics of its step by how they are averaged."""
        environment, batches, episodes = play(state, keys)
        inner, metrics = algorithm.step(state.inner, batches, None)
        count = jnp.asarray(algorithm.online, jnp.float32)
        of_updates = {k: count * v for k, v in metrics.items() if not is_of_meta_update(k)}
        seen = {
            **of_updates,
            "reward": jnp.sum(jnp.where(batches.valid, batches.reward, 0.0)),
            "updates": count,
            "episodes": episodes.ended,
            "episode_returns": episodes.returns,
            "episode_steps": episodes.steps,
        }
        new = PlayingState(inner, environment, seen)
        return new, seen, {k: v for k, v in metrics.items() if is_of_meta_update(k)}

    def init(key: jax.Array) -> State:
        for_algorithm, for_environment = jax.random.split(key)
        inner, environment = algorithm.init(for_algorithm), reset(for_environment)
        state = PlayingState(inner, environment, {})
        keys = jax.random.split(key, algorithm.online)
        seen = jax.eval_shape(lambda: learn(state, keys)[1])
        tally = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), seen)
        return State(state._replace(tally=tally), inner.updates)

    def step(state: State, online: Any, further: Any) -> tuple[State, Metrics]:
        del further
        new, seen, metrics = learn(state.inner, online)
        tally = jax.tree.map(jnp.add, state.inner.tally, seen)
        return State(new._replace(tally=tally), new.inner.updates), metrics

    return Algorithm(init, step, online=algorithm.online, meta=algorithm.meta)
