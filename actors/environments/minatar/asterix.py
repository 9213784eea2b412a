"""Asterix of MinAtar: gold to collect and enemies to avoid in eight rows, as pure functions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

MINIMAL_ACTIONS = (0, 1, 2, 3, 4)  # all but fire
CHANNELS = 4  # player, enemy, trail, gold
START_DRAWS = 0
STEP_DRAWS = 3

_LEFT, _UP, _RIGHT, _DOWN = 1, 2, 3, 4
_SIZE = 10
_TOP, _BOTTOM = 1, 8  # rows of things and of the player
_SPAWN_INTERVAL = 10
_MOVE_INTERVAL = 5
_RAMP_INTERVAL = 100
_NOWHERE = -20  # the column of an empty row: neither it nor its neighbours are on the grid


class State(NamedTuple):
    """One episode. There is an element for each row; rows 0 and 9 are never filled."""

    x: jax.Array  # [] int32, column of the player
    y: jax.Array  # [] int32, its row
    thing: jax.Array  # [10] int32, column of the row's thing
    direction: jax.Array  # [10] int32, +1 if it moves right, else -1
    gold: jax.Array  # [10] bool, whether it is gold or an enemy
    spawn_interval: jax.Array  # [] int32, steps
    spawn_countdown: jax.Array  # [] int32
    move_interval: jax.Array  # [] int32, steps
    move_countdown: jax.Array  # [] int32
    ramp_countdown: jax.Array  # [] int32
    ramp_level: jax.Array  # [] int32


def start(draws: jax.Array) -> State:
    """The first state of an episode, always the same one; `draws` are [0]."""
    del draws

    def scalar(value: int) -> jax.Array:
        return jnp.full((), value, jnp.int32)

    return State(
        x=scalar(5),
        y=scalar(5),
        thing=jnp.full(_SIZE, _NOWHERE, jnp.int32),
        direction=jnp.ones(_SIZE, jnp.int32),
        gold=jnp.zeros(_SIZE, bool),
        spawn_interval=scalar(_SPAWN_INTERVAL),
        spawn_countdown=scalar(_SPAWN_INTERVAL),
        move_interval=scalar(_MOVE_INTERVAL),
        move_countdown=scalar(_MOVE_INTERVAL),
        ramp_countdown=scalar(_RAMP_INTERVAL),
        ramp_level=scalar(0),
    )


def step(
    state: State, action: jax.Array, draws: jax.Array, ramping: bool
) -> tuple[State, jax.Array, jax.Array]:
    """One step.

    Args:
        state: before the step.
        action: [] int32, one of the six.
        draws: [3] float32 in [0, 1) of what is spawned: its direction, its kind, and its row among
            the free ones.
        ramping: whether the game gets faster.

    Returns:
        The state after the step, the reward [] float32, and whether the episode ends [] bool.
    """
    row = jnp.arange(_SIZE)
    spawns = state.spawn_countdown == 0
    right = draws[0] < 0.5
    new = spawns & _is_chosen(state.thing, draws[2])
    thing = jnp.where(new, jnp.where(right, 0, _SIZE - 1), state.thing)
    direction = jnp.where(new, jnp.where(right, 1, -1), state.direction)
    gold = jnp.where(new, draws[1] < 1 / 3, state.gold)

    x = jnp.clip(state.x + (action == _RIGHT) - (action == _LEFT), 0, _SIZE - 1)
    y = jnp.clip(state.y + (action == _DOWN) - (action == _UP), _TOP, _BOTTOM)
    moves = state.move_countdown == 0
    moved = jnp.where(moves, thing + direction, thing)
    # One thing in the player's row is met before it moves or after, so one test is enough.
    met = (row == y) & ((thing == x) | (moved == x))
    collects = jnp.any(met & gold)
    ends = jnp.any(met & ~gold)
    stays = (moved >= 0) & (moved < _SIZE) & ~(met & gold)

    after = State(
        x=x,
        y=y,
        thing=jnp.where(stays, moved, _NOWHERE),
        direction=direction,
        gold=gold,
        spawn_interval=state.spawn_interval,
        spawn_countdown=jnp.where(spawns, state.spawn_interval, state.spawn_countdown) - 1,
        move_interval=state.move_interval,
        move_countdown=jnp.where(moves, state.move_interval, state.move_countdown) - 1,
        ramp_countdown=state.ramp_countdown,
        ramp_level=state.ramp_level,
    )
    if ramping:
        after = _ramp(after)
    return after, collects.astype(jnp.float32), ends


def observe(state: State) -> jax.Array:
    """The observation [10, 10, 4] bool: player, enemies, trails, gold."""
    shape = (_SIZE, _SIZE, CHANNELS)
    y, x, channel = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(3))
    thing = (state.thing[:, None, None] == x) & (
        channel == jnp.where(state.gold, 3, 1)[:, None, None]
    )
    trail = ((state.thing - state.direction)[:, None, None] == x) & (channel == 2)
    player = (y == state.y) & (x == state.x) & (channel == 0)
    return player | thing | trail


def _is_chosen(thing: jax.Array, draw: jax.Array) -> jax.Array:
    """Marks the free row [10] that a draw chooses; none if all are taken."""
    row = jnp.arange(_SIZE)
    free = (thing < 0) & (row >= _TOP) & (row <= _BOTTOM)
    bits = jnp.sum(jnp.where(free, 1 << row, 0))
    count = jax.lax.population_count(bits)
    number = jnp.minimum((draw * count.astype(jnp.float32)).astype(jnp.int32), count - 1)
    return free & (jax.lax.population_count(bits & ((1 << row) - 1)) == number)


def _ramp(state: State) -> State:
    """The clock of difficulty after a step: shorter intervals, which act at the next reload."""
    active = (state.spawn_interval > 1) | (state.move_interval > 1)
    due = active & (state.ramp_countdown < 0)
    moves_faster = due & (state.ramp_level & 1 == 1) & (state.move_interval > 1)
    spawns_faster = due & (state.spawn_interval > 1)
    return state._replace(
        spawn_interval=state.spawn_interval - spawns_faster,
        move_interval=state.move_interval - moves_faster,
        ramp_countdown=jnp.where(due, _RAMP_INTERVAL, state.ramp_countdown - active),
        ramp_level=state.ramp_level + due,
    )
