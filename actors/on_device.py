"""Playing inside a program: environments that are pure JAX functions, under `lax.scan`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from actors.environments import catch, two_colours
from actors.environments.minatar.games import make_game
from actors.environments.two_colours import Respawn
from agents.networks import Network, Params
from agents.playing import Episodes
from agents.trajectory import Trajectory

# Steps of the scan that are written out: fewer copies of its carry; more than 4 gain nothing.
_WRITTEN_OUT = 4


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


def make_unroll(
    environment: DeviceEnvironment, network: Network, length: int
) -> Callable[[Params, Any, jax.Array], tuple[Any, Trajectory]]:
    """Builds `unroll(params, state, key) -> (state, trajectory)` of one that has no episodes.

    All random numbers of an unroll are drawn at once: a draw for each step would take as long as
    the step. Actions are those with the largest logit plus Gumbel noise, which is a sample of the
    softmax policy.

    Args:
        environment: one of them is played, so B = 1.
        network: policy.
        length: T.
    """

    def unroll(params: Params, state: Any, key: jax.Array) -> tuple[Any, Trajectory]:
        def play(state: Any, numbers: tuple[jax.Array, jax.Array]):
            noise, draws = numbers
            logits = network.apply(params, environment.observe(state)).logits
            action = jnp.argmax(logits + noise).astype(jnp.int32)
            following, reply = environment.step(state, action, draws)
            return following, (state, action, reply.reward, reply.discount, logits)

        last, (states, action, reward, discount, logits) = jax.lax.scan(
            play, state, _draw(environment, key, length), unroll=_WRITTEN_OUT
        )
        states = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), states, last)
        return last, Trajectory(
            observation=jax.vmap(environment.observe)(states)[:, None],
            action=action[:, None],
            reward=reward[:, None],
            discount=discount[:, None],
            behaviour_logits=logits[:, None],
            valid=jnp.ones((length, 1), bool),
        )

    return unroll


class Players(NamedTuple):
    """Several environments, and how far their episodes are; leading axis B."""

    state: Any
    episode_return: jax.Array  # [B] float32
    episode_length: jax.Array  # [B] int32, steps


def make_players(
    environment: DeviceEnvironment, network: Network, length: int, count: int
) -> tuple[
    Callable[[jax.Array], Players],
    Callable[[Params, Players, jax.Array], tuple[Players, Trajectory, Episodes]],
]:
    """Builds `reset(key)` and `unroll(params, players, key)` of several environments with episodes.

    Args:
        environment: each of them.
        network: policy, which is sampled as in `make_unroll`.
        length: T.
        count: B.
    """

    def reset(key: jax.Array) -> Players:
        state = jax.vmap(environment.reset)(jax.random.split(key, count))
        return Players(state, jnp.zeros(count), jnp.zeros(count, jnp.int32))

    observe, step = jax.vmap(environment.observe), jax.vmap(environment.step)

    def unroll(
        params: Params, players: Players, key: jax.Array
    ) -> tuple[Players, Trajectory, Episodes]:
        def play(players: Players, numbers: tuple[jax.Array, jax.Array]):
            noise, draws = numbers
            observation = observe(players.state)
            logits = network.apply(params, observation).logits
            action = jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)
            state, reply = step(players.state, action, draws)
            score = players.episode_return + jnp.where(reply.valid, reply.reward, 0.0)
            steps = players.episode_length + reply.valid
            done = reply.ended
            episodes = Episodes(
                ended=jnp.sum(done, dtype=jnp.float32),
                returns=jnp.sum(jnp.where(done, score, 0.0)),
                steps=jnp.sum(jnp.where(done, steps, 0), dtype=jnp.float32),
            )
            following = Players(state, jnp.where(done, 0.0, score), jnp.where(done, 0, steps))
            return following, (observation, action, reply, logits, episodes)

        last, (observation, action, reply, logits, episodes) = jax.lax.scan(
            play, players, _draw(environment, key, length, count)
        )
        trajectory = Trajectory(
            observation=jnp.concatenate([observation, observe(last.state)[None]]),
            action=action,
            reward=reply.reward,
            discount=reply.discount,
            behaviour_logits=logits,
            valid=reply.valid,
        )
        return last, trajectory, jax.tree.map(jnp.sum, episodes)

    return reset, unroll


def _draw(
    environment: DeviceEnvironment, key: jax.Array, *leading: int
) -> tuple[jax.Array, jax.Array]:
    """Gumbel noise [..., A] of the actions and draws [..., D] of the environment."""
    actions = environment.num_actions
    uniform = jax.random.uniform(key, (*leading, actions + environment.draws))
    tiny = jnp.finfo(uniform.dtype).tiny
    noise = -jnp.log(-jnp.log(jnp.maximum(uniform[..., :actions], tiny)))
    return noise, uniform[..., actions:]
