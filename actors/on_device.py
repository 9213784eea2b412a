"""Playing inside a program: environments that are pure JAX functions, under `lax.scan`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from actors.environments import two_colours
from actors.environments.two_colours import Respawn
from agents.networks import Network, Params
from agents.trajectory import Trajectory

# Steps of the scan that are written out: fewer copies of its carry; more than 4 gain nothing.
_WRITTEN_OUT = 4


class DeviceEnvironment(NamedTuple):
    """An environment that is never reset, as pure functions of one environment's state."""

    reset: Callable[[jax.Array], Any]  # key -> state
    observe: Callable[[Any], jax.Array]  # state -> observation
    step: Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array, jax.Array]]
    # (state, action, uniform draw in [0, 1)) -> (state, reward, discount); a discount of 0 ends the
    # return, not the play
    num_actions: int
    observation_shape: tuple[int, ...]


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

    def step(state: Any, action: jax.Array, draw: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        state, reward = two_colours.step(state, action, draw, swap_period, respawn)
        collects = jnp.abs(reward) == two_colours.OBJECT_REWARD
        return state, reward, jnp.where(collects, collection_discount, jnp.ones_like(reward))

    return DeviceEnvironment(
        reset=two_colours.reset,
        observe=two_colours.observe,
        step=step,
        num_actions=two_colours.ACTIONS,
        observation_shape=(two_colours.FEATURES,),
    )


def make_unroll(
    environment: DeviceEnvironment, network: Network, length: int
) -> Callable[[Params, Any, jax.Array], tuple[Any, Trajectory]]:
    """Builds `unroll(params, state, key) -> (state, trajectory)` of the sampling policy.

    All random numbers of an unroll are drawn at once: a draw for each step would take as long as
    the step. Actions are those with the largest logit plus Gumbel noise, which is a sample of the
    softmax policy.

    Args:
        environment: one of them is played, so B = 1.
        network: policy.
        length: T.
    """

    def unroll(params: Params, state: Any, key: jax.Array) -> tuple[Any, Trajectory]:
        uniform = jax.random.uniform(key, (length, environment.num_actions + 1))
        tiny = jnp.finfo(uniform.dtype).tiny
        noise = -jnp.log(-jnp.log(jnp.maximum(uniform[:, :-1], tiny)))

        def play(state: Any, numbers: tuple[jax.Array, jax.Array]):
            noise, draw = numbers
            logits = network.apply(params, environment.observe(state)).logits
            action = jnp.argmax(logits + noise).astype(jnp.int32)
            following, reward, discount = environment.step(state, action, draw)
            return following, (state, action, reward, discount, logits)

        last, (states, action, reward, discount, logits) = jax.lax.scan(
            play, state, (noise, uniform[:, -1]), unroll=_WRITTEN_OUT
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
