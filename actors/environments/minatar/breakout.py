"""Breakout of MinAtar: a paddle, a ball and three rows of bricks, as pure functions.

All of a state are scalars, the bricks too (a bit each): a step is arithmetic on scalars, which XLA
fuses whatever is vmapped over it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

MINIMAL_ACTIONS = (0, 1, 3)  # nothing, left, right
CHANNELS = 4  # paddle, ball, trail, bricks
START_DRAWS = 1
STEP_DRAWS = 0

_LEFT, _RIGHT = 1, 3
_SIZE = 10
_BRICKS = 3 * _SIZE
_FIRST_BRICK = _SIZE  # the cell of the first brick, cells counted row by row from the top left one
_WALL = (1 << _BRICKS) - 1
_BOTTOM = _SIZE - 1


class State(NamedTuple):
    """One episode. Scalars, int32 where not said."""

    paddle: jax.Array  # column; in the bottom row
    x: jax.Array  # column of the ball
    y: jax.Array  # row of the ball
    velocity_x: jax.Array  # +1 or -1
    velocity_y: jax.Array  # +1 (down) or -1
    last_x: jax.Array  # where the ball was before: its trail
    last_y: jax.Array
    bricks: jax.Array  # bit i is the brick in cell 10 + i
    struck: jax.Array  # bool: the last target was a brick, so that the next one is not broken


def start(draws: jax.Array) -> State:
    """The first state of an episode.

    Args:
        draws: [1] float32 in [0, 1): the ball comes from the left below 1/2, else from the right.
    """
    from_right = (draws[0] >= 0.5).astype(jnp.int32)
    x, y = (_SIZE - 1) * from_right, jnp.full((), 3, jnp.int32)
    return State(
        paddle=jnp.full((), 4, jnp.int32),
        x=x,
        y=y,
        velocity_x=1 - 2 * from_right,
        velocity_y=jnp.ones((), jnp.int32),
        last_x=x,
        last_y=y,
        bricks=jnp.full((), _WALL, jnp.int32),
        struck=jnp.zeros((), bool),
    )


def step(state: State, action: jax.Array, draws: jax.Array) -> tuple[State, jax.Array, jax.Array]:
    """One step.

    Args:
        state: before the step.
        action: [] int32, one of the six.
        draws: [0]; the game draws at its start only.

    Returns:
        The state after the step, the reward [] float32, and whether the episode ends [] bool.
    """
    del draws
    paddle = jnp.clip(state.paddle + (action == _RIGHT) - (action == _LEFT), 0, _SIZE - 1)

    x = jnp.clip(state.x + state.velocity_x, 0, _SIZE - 1)
    velocity_x = jnp.where(x == state.x, -state.velocity_x, state.velocity_x)  # a side wall
    y = state.y + state.velocity_y

    number = _SIZE * y + x - _FIRST_BRICK
    brick = 1 << jnp.clip(number, 0, _BRICKS - 1)
    at_brick = (number >= 0) & (number < _BRICKS) & (state.bricks & brick != 0)
    breaks = at_brick & ~state.struck
    at_top = y < 0
    at_bottom = y == _BOTTOM
    on_paddle = at_bottom & ((state.x == paddle) | (x == paddle))
    on_its_edge = on_paddle & (state.x != paddle)

    bricks = jnp.where(breaks, state.bricks & ~brick, state.bricks)
    after = State(
        paddle=paddle,
        x=x,
        y=jnp.where(at_top | breaks | on_paddle, state.y, y),
        velocity_x=jnp.where(on_its_edge, -velocity_x, velocity_x),
        velocity_y=jnp.where(at_top | breaks | on_paddle, -state.velocity_y, state.velocity_y),
        last_x=state.x,
        last_y=state.y,
        bricks=jnp.where(at_bottom & (bricks == 0), _WALL, bricks),
        struck=at_brick,
    )
    return after, breaks.astype(jnp.float32), at_bottom & ~on_paddle


def observe(state: State) -> jax.Array:
    """The observation [10, 10, 4] bool: paddle, ball, trail, bricks."""
    shape = (_SIZE, _SIZE, CHANNELS)
    y, x, channel = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(3))
    cell = _SIZE * y + x
    number = cell - _FIRST_BRICK
    is_brick = (number >= 0) & (number < _BRICKS)
    brick = is_brick & ((state.bricks >> jnp.clip(number, 0, _BRICKS - 1)) & 1 != 0)
    sprite = jnp.where(
        channel == 0,
        _SIZE * _BOTTOM + state.paddle,
        jnp.where(channel == 1, _SIZE * state.y + state.x, _SIZE * state.last_y + state.last_x),
    )
    return jnp.where(channel == CHANNELS - 1, brick, cell == sprite)
