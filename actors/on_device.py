"""Playing inside a program: unrolls of environments that are JAX functions, under `lax.scan`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from actors.environments.device import DeviceEnvironment
from agents.networks import Network, Params
from agents.playing import Episodes
from agents.trajectory import Trajectory

# Steps of the scan that are written out: fewer copies of its carry; more than 4 gain nothing.
_WRITTEN_OUT = 4


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
