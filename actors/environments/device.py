"""Environments inside a program: pure JAX functions of one environment's state, and a host view.

The caller vmaps and scans them (actors/on_device.py). `OnHost` is the same environments as a
`VectorEnvironment`, for evaluations and for actors.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from actors.environments import catch, two_colours
from actors.environments.minatar.games import make_game
from actors.environments.two_colours import Respawn
from actors.environments.vector import Timestep


class Reply(NamedTuple):
    """What one step gives; as `vector.Timestep`, but of one environment and without observation."""

    reward: jax.Array  # float32
    discount: jax.Array  # float32, 0 where the return ends; the play goes on all the same
    ended: jax.Array  # bool, whether an episode has ended; the next step is its reset
    valid: jax.Array  # bool, False on a reset, which ignores the action


class DeviceEnvironment(NamedTuple):
    """An environment that resets itself, as pure functions of one environment's state."""

    reset: Callable[[jax.Array], Any]  # key -> state
    observe: Callable[[Any], jax.Array]  # state -> observation
    step: Callable[[Any, jax.Array, jax.Array], tuple[Any, Reply]]
    # (state, action, uniform draws [D] in [0, 1)) -> (state, reply)
    num_actions: int
    observation_shape: tuple[int, ...]
    observation_dtype: Any = jnp.float32
    draws: int = 1  # D


def make_two_colours(
    swap_period: int, respawn: Respawn, collection_discount: float
) -> DeviceEnvironment:
    """The grid world.

    The observation after a step that collects an object is that of the new places. With `all` it
    has nothing to do with the one before; a return that goes on (a discount of 1) is that of a
    world that goes on, and is worth there what the new place is.

    Args:
        swap_period: steps after which its rewards swap.
        respawn: what is placed anew after a collection.
        collection_discount: discount of a step that collects an object; other steps have 1.
    """

    def step(state: Any, action: jax.Array, draws: jax.Array) -> tuple[Any, Reply]:
        state, reward = two_colours.step(state, action, draws[0], swap_period, respawn)
        collects = jnp.abs(reward) == two_colours.OBJECT_REWARD
        discount = jnp.where(collects, collection_discount, jnp.ones_like(reward))
        return state, Reply(reward, discount, jnp.zeros((), bool), jnp.ones((), bool))

    return DeviceEnvironment(
        reset=two_colours.reset,
        observe=two_colours.observe,
        step=step,
        num_actions=two_colours.ACTIONS,
        observation_shape=(two_colours.FEATURES,),
    )


def make_catch() -> DeviceEnvironment:
    """Catch."""

    def column(draws: jax.Array) -> jax.Array:
        return (catch.COLUMNS * draws[0]).astype(jnp.int32)

    def step(board: Any, action: jax.Array, draws: jax.Array) -> tuple[Any, Reply]:
        board, result = catch.play(board, action, column(draws))
        discount = jnp.where(result.ended, 0.0, 1.0)
        return board, Reply(result.reward, discount, result.ended, result.valid)

    return DeviceEnvironment(
        reset=lambda key: catch.new_ball(column(jax.random.uniform(key, (1,)))),
        observe=catch.observe,
        step=step,
        num_actions=catch.ACTIONS,
        observation_shape=(catch.ROWS * catch.COLUMNS,),
        observation_dtype=jnp.uint8,
    )


class _Limited(NamedTuple):
    """A game whose episodes may be cut."""

    game: Any
    steps: jax.Array  # int32, of the episode


def make_minatar(
    name: str,
    *,
    sticky_actions: float,
    ramping: bool,
    minimal_actions: bool,
    max_episode_steps: int,
) -> DeviceEnvironment:
    """A game of MinAtar, after whose end a step is the reset.

    Args:
        name: of the game.
        sticky_actions: probability that the last action is repeated.
        ramping: whether it becomes harder.
        minimal_actions: the game's own actions instead of all six.
        max_episode_steps: at which an episode is cut, with a discount of 1.
    """
    game = make_game(
        name,
        sticky_actions=sticky_actions,
        ramping=ramping,
        minimal_actions=minimal_actions,
    )

    def reset(key: jax.Array) -> _Limited:
        draws = jax.random.uniform(key, (game.start_draws,))
        return _Limited(game.start(draws), jnp.zeros((), jnp.int32))

    def step(state: _Limited, action: jax.Array, draws: jax.Array) -> tuple[_Limited, Reply]:
        is_reset = state.game.over
        played, reward, over = game.step(state.game, action, draws[: game.step_draws])
        steps = jnp.where(is_reset, 0, state.steps + 1)
        ended = ~is_reset & (over | (steps >= max_episode_steps))
        first = game.restart(state.game, draws[game.step_draws :])
        following = jax.tree.map(
            lambda a, b: jnp.where(is_reset, a, b), first, played._replace(over=ended)
        )
        discount = jnp.where(over & ~is_reset, 0.0, 1.0)
        return _Limited(following, steps), Reply(reward, discount, ended, ~is_reset)

    return DeviceEnvironment(
        reset=reset,
        observe=lambda state: game.observe(state.game),
        step=step,
        num_actions=game.num_actions,
        observation_shape=game.observation_shape,
        observation_dtype=jnp.bool_,
        draws=game.step_draws + game.start_draws,
    )


_CHANGES = 64  # permutations of a series


def permutations(num_actions: int, seed: int) -> np.ndarray:
    """What actions do after each change [64, A]: the action that each becomes.

    The first row changes nothing; no two in a row are the same, the last and the first included.
    """
    random = np.random.default_rng(seed)
    series = [np.arange(num_actions)]
    while len(series) < _CHANGES:
        drawn = random.permutation(num_actions)
        is_last = len(series) == _CHANGES - 1
        if (drawn != series[-1]).any() and not (is_last and (drawn == series[0]).all()):
            series.append(drawn)
    return np.asarray(series, np.int32)


class _Changing(NamedTuple):
    """An environment, and how often it has been stepped."""

    state: Any
    clock: jax.Array  # int32, resets included, modulo the whole series of permutations


def changing(environment: DeviceEnvironment, every: int, seed: int) -> DeviceEnvironment:
    """An environment in which what actions do is permuted anew, again and again.

    At first they do what they always did. All environments that are stepped together change
    together; after 64 different times the series begins again.

    Args:
        environment: that changes.
        every: steps between two changes.
        seed: of `permutations`.
    """
    series = permutations(environment.num_actions, seed)

    def step(state: _Changing, action: jax.Array, draws: jax.Array) -> tuple[_Changing, Reply]:
        meant = jnp.asarray(series)[state.clock // every, action]
        inner, reply = environment.step(state.state, meant, draws)
        clock = state.clock + 1
        return _Changing(inner, jnp.where(clock == _CHANGES * every, 0, clock)), reply

    return environment._replace(
        reset=lambda key: _Changing(environment.reset(key), jnp.zeros((), jnp.int32)),
        observe=lambda state: environment.observe(state.state),
        step=step,
    )


class OnHost:
    """B environments of a program on the host; see `VectorEnvironment`."""

    frame_stack = 0

    def __init__(self, environment: DeviceEnvironment, num_envs: int) -> None:
        self.num_envs, self.num_actions = num_envs, environment.num_actions
        self.observation_shape = environment.observation_shape
        self.observation_dtype = np.dtype(environment.observation_dtype)

        def reset(seed: jax.Array) -> tuple[jax.Array, Any]:
            key, first = jax.random.split(jax.random.key(seed))
            return jax.random.key_data(key), environment.reset(first)

        def step(data: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Any, Any, Any]:
            key, draw = jax.random.split(jax.random.wrap_key_data(data))
            draws = jax.random.uniform(draw, (environment.draws,))
            state, reply = environment.step(state, action, draws)
            return jax.random.key_data(key), state, environment.observe(state), reply

        self._reset, self._step = jax.jit(jax.vmap(reset)), jax.jit(jax.vmap(step))
        self._observe = jax.jit(jax.vmap(environment.observe))

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """New episodes, each environment's stream from its own seed."""
        self._key, self._state = self._reset(seeds.astype(np.int32))
        self._frames = np.zeros(self.num_envs, np.int32)
        return np.asarray(self._observe(self._state))

    def step(self, action: np.ndarray) -> Timestep:
        """One step of each."""
        self._key, self._state, observation, reply = self._step(self._key, self._state, action)
        observation, reply = jax.device_get((observation, reply))
        self._frames = np.where(reply.valid, self._frames + 1, 0)
        return Timestep(
            observation, reply.reward, reply.discount, reply.ended, reply.valid, self._frames
        )

    def save(self) -> dict[str, np.ndarray]:
        """See `Resumable`."""
        leaves = jax.tree.leaves(jax.device_get(self._state))
        named = {f"state/{i}": leaf for i, leaf in enumerate(leaves)}
        return {**named, "key": np.asarray(self._key), "frames": self._frames}

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """See `Resumable`."""
        leaves, structure = jax.tree.flatten(self._state)
        restored = [jnp.asarray(saved[f"state/{i}"]) for i in range(len(leaves))]
        self._state = jax.tree.unflatten(structure, restored)
        self._key, self._frames = jnp.asarray(saved["key"]), saved["frames"]

    def close(self) -> None:
        """Holds nothing that needs closing."""
