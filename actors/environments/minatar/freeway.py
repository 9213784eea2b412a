"""Freeway of MinAtar: a player that crosses eight lanes of cars, as pure functions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

MINIMAL_ACTIONS = (0, 2, 4)  # nothing, up, down
CHANNELS = 7  # player, car, trails of the speed classes 1 to 5
START_DRAWS = 16
STEP_DRAWS = 16

_UP, _DOWN = 2, 4
_SIZE = 10
_CARS = 8
_CLASSES = 5
_COLUMN = 4  # of the player
_BOTTOM = _SIZE - 1
_COOLDOWN = 3  # steps from one move of the player to the next
_BUDGET = 2500  # steps
_NOWHERE = -20  # the column of the missing cars of rows 0 and 9: no move brings them to one


class State(NamedTuple):
    """One episode. There is an element for each row, so that rows 0 and 9 have no car."""

    row: jax.Array  # [] int32, of the player
    cooldown: jax.Array  # [] int32, steps until the player can move
    budget: jax.Array  # [] int32, steps left
    x: jax.Array  # [10] int32, column of the row's car
    speed: jax.Array  # [10] int32, its class 1 to 5, negative if it moves left
    countdown: jax.Array  # [10] int32, steps until it moves


def start(draws: jax.Array) -> State:
    """The first state of an episode.

    Args:
        draws: [16] float32 in [0, 1): classes of the eight cars, then their directions.
    """
    speed = _speed(draws)
    return State(
        row=jnp.full((), _BOTTOM, jnp.int32),
        cooldown=jnp.full((), _COOLDOWN, jnp.int32),
        budget=jnp.full((), _BUDGET, jnp.int32),
        x=jnp.where(speed == 0, _NOWHERE, 0).astype(jnp.int32),
        speed=speed,
        countdown=jnp.abs(speed),
    )


def step(state: State, action: jax.Array, draws: jax.Array) -> tuple[State, jax.Array, jax.Array]:
    """One step.

    Args:
        state: before the step.
        action: [] int32, one of the six.
        draws: [16] float32 in [0, 1), used if the player arrives; see `start`.

    Returns:
        The state after the step, the reward [] float32, and whether the episode ends [] bool.
    """
    acts = ((action == _UP) | (action == _DOWN)) & (state.cooldown == 0)
    cooldown = jnp.where(acts, _COOLDOWN, state.cooldown)
    way = (action == _DOWN).astype(jnp.int32) - (action == _UP)
    row = jnp.where(acts, jnp.clip(state.row + way, 0, _BOTTOM), state.row)
    arrives = row == 0
    row = jnp.where(arrives, _BOTTOM, row)

    speed = jnp.where(arrives, _speed(draws), state.speed)
    countdown = jnp.where(arrives, jnp.abs(speed), state.countdown)
    moves = countdown == 0
    x = jnp.where(moves, _wrap(state.x + jnp.sign(speed)), state.x)
    # A car hits before it moves or after: what comes first is one row's business.
    hits = (jnp.arange(_SIZE) == row) & ((state.x == _COLUMN) | (x == _COLUMN))

    budget = state.budget - 1
    after = State(
        row=jnp.where(jnp.any(hits), _BOTTOM, row),
        cooldown=jnp.maximum(cooldown - 1, 0),
        budget=budget,
        x=x,
        speed=speed,
        countdown=jnp.where(moves, jnp.abs(speed), countdown - 1),
    )
    return after, arrives.astype(jnp.float32), budget < 0


def observe(state: State) -> jax.Array:
    """The observation [10, 10, 7] bool: player, cars, and the trails of each speed class."""
    shape = (_SIZE, _SIZE, CHANNELS)
    y, x, channel = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(3))
    behind = _wrap(state.x - jnp.sign(state.speed))
    trail_channel = 1 + jnp.abs(state.speed)
    player = (channel == 0) & (y == state.row) & (x == _COLUMN)
    car = (channel == 1) & (x == state.x[:, None, None])
    trail = (channel == trail_channel[:, None, None]) & (x == behind[:, None, None])
    return player | car | trail


def _speed(draws: jax.Array) -> jax.Array:
    """Signed speed classes [10] from draws [16], 0 where there is no car."""
    number = jnp.minimum((_CLASSES * draws[:_CARS]).astype(jnp.int32), _CLASSES - 1)
    return jnp.pad(jnp.where(draws[_CARS:] < 0.5, -1 - number, 1 + number), 1)


def _wrap(x: jax.Array) -> jax.Array:
    """Columns after a step of one over an edge, and no column as it is."""
    return jnp.where(x == _SIZE, 0, jnp.where(x == -1, _SIZE - 1, x))
