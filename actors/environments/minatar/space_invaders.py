"""Space Invaders of MinAtar: a cannon against waves of 24 aliens, as pure functions.

A map of cells is an int32 for each column, whose bit y is row y: what moves up or down is a shift,
what moves sideways a shift of the array, and all cells of a column are compared at once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

MINIMAL_ACTIONS = (0, 1, 3, 5)  # nothing, left, right, fire
CHANNELS = 6  # cannon, aliens, aliens moving left, aliens moving right, own bullets, enemy bullets
START_DRAWS = 0
STEP_DRAWS = 0

_LEFT, _RIGHT, _FIRE = 1, 3, 5
_SIZE = 10
_BOTTOM = _SIZE - 1
_COLUMN = (1 << _SIZE) - 1  # all cells of a column
_WAVE_ROWS = 0b1111
_WAVE_COLUMNS = (2, 7)
_INTERVAL = 12  # steps between two moves of many aliens
_SHORTEST_INTERVAL = 6
_ALIEN_SHOTS = 10  # steps from one to the next
_COOLDOWN = 5  # steps from one own shot to the next


class State(NamedTuple):
    """One episode."""

    cannon: jax.Array  # [] int32, column; in the bottom row
    aliens: jax.Array  # [10] int32, a map as the module says
    bullets: jax.Array  # [10] int32, own ones
    bombs: jax.Array  # [10] int32, the aliens' bullets
    direction: jax.Array  # [] int32, of the aliens, -1 left or +1 right
    interval: jax.Array  # [] int32, steps between moves of at least as many aliens
    alien_countdown: jax.Array  # [] int32, steps until they move
    bomb_countdown: jax.Array  # [] int32, steps until one of them shoots
    cooldown: jax.Array  # [] int32, steps until the cannon can shoot


def start(draws: jax.Array) -> State:
    """The first state of an episode, always the same one; `draws` are [0]."""
    del draws

    def scalar(value: int) -> jax.Array:
        return jnp.full((), value, jnp.int32)

    return State(
        cannon=scalar(5),
        aliens=_wave(),
        bullets=jnp.zeros(_SIZE, jnp.int32),
        bombs=jnp.zeros(_SIZE, jnp.int32),
        direction=scalar(-1),
        interval=scalar(_INTERVAL),
        alien_countdown=scalar(_INTERVAL),
        bomb_countdown=scalar(_ALIEN_SHOTS),
        cooldown=scalar(0),
    )


def step(
    state: State, action: jax.Array, draws: jax.Array, ramping: bool
) -> tuple[State, jax.Array, jax.Array]:
    """One step.

    Args:
        state: before the step.
        action: [] int32, one of the six.
        draws: [0]; the game draws nothing.
        ramping: whether each wave moves faster than the one before.

    Returns:
        The state after the step, the reward [] float32, and whether the episode ends [] bool.
    """
    del draws
    column = jnp.arange(_SIZE)
    fires = (action == _FIRE) & (state.cooldown == 0)
    cannon = jnp.clip(state.cannon + (action == _RIGHT) - (action == _LEFT), 0, _SIZE - 1)
    here = column == cannon
    bullets = (state.bullets | jnp.where(here & fires, 1 << _BOTTOM, 0)) >> 1
    bombs = (state.bombs << 1) & _COLUMN

    count = jnp.sum(jax.lax.population_count(state.aliens))
    move = state.alien_countdown == 0
    aliens, direction, lands = _march(state.aliens, state.direction)
    aliens = jnp.where(move, aliens, state.aliens)
    # Whatever reaches the cannon's cell, before the aliens' move or after.
    hit = jnp.any(here & ((state.aliens | aliens | bombs) >> _BOTTOM != 0))

    shoot = state.bomb_countdown == 0
    bombs = bombs | jnp.where(shoot, _bomb(aliens, cannon), 0)
    killed = aliens & bullets
    score = jnp.sum(jax.lax.population_count(killed))
    cleared = score == count
    faster = cleared & (state.interval > _SHORTEST_INTERVAL) if ramping else 0

    after = State(
        cannon=cannon,
        aliens=jnp.where(cleared, _wave(), aliens & ~killed),
        bullets=bullets & ~killed,
        bombs=bombs,
        direction=jnp.where(move, direction, state.direction),
        interval=state.interval - faster,
        alien_countdown=jnp.where(move, jnp.minimum(count, state.interval), state.alien_countdown)
        - 1,
        bomb_countdown=jnp.where(shoot, _ALIEN_SHOTS, state.bomb_countdown) - 1,
        cooldown=jnp.maximum(jnp.where(fires, _COOLDOWN, state.cooldown) - 1, 0),
    )
    return after, score.astype(jnp.float32), hit | (move & lands)


def observe(state: State) -> jax.Array:
    """The observation [10, 10, 6] bool.

    Channels: the cannon, the aliens, the aliens if they move left, the aliens if they move right,
    own bullets, enemy bullets.
    """
    y, x = (jax.lax.broadcasted_iota(jnp.int32, (_SIZE, _SIZE), axis) for axis in range(2))
    channel = jnp.arange(CHANNELS)[None, None]
    aliens, bullets, bombs = (
        (cells[None] >> y) & 1 for cells in (state.aliens, state.bullets, state.bombs)
    )
    cannon = ((y == _BOTTOM) & (x == state.cannon)).astype(jnp.int32)
    # A cell's channels as bits, so that most is done for cells and little for channels.
    alien_channels = jnp.where(state.direction < 0, 0b0110, 0b1010)
    bits = cannon | (aliens * alien_channels) | (bullets << 4) | (bombs << 5)
    return (bits[..., None] >> channel) & 1 != 0


def _wave() -> jax.Array:
    """The map of 24 aliens [10] with which a wave begins."""
    column = jnp.arange(_SIZE)
    first, last = _WAVE_COLUMNS
    return jnp.where((column >= first) & (column <= last), _WAVE_ROWS, 0).astype(jnp.int32)


def _march(aliens: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Aliens [10] and direction after their move, and whether they have landed [] bool.

    At the edge they turn and move down instead, those of the bottom row to the top one.
    """
    turns = jnp.where(direction < 0, aliens[0], aliens[-1]) != 0
    down = ((aliens << 1) & _COLUMN) | (aliens >> _BOTTOM)
    sideways = jnp.where(direction < 0, jnp.roll(aliens, -1), jnp.roll(aliens, 1))
    landed = turns & jnp.any(aliens >> _BOTTOM != 0)
    return jnp.where(turns, down, sideways), jnp.where(turns, -direction, direction), landed


def _bomb(aliens: jax.Array, cannon: jax.Array) -> jax.Array:
    """The map [10] of the bullet that the aliens shoot.

    It comes from the lowest alien of the nearest column, of two equally near the left one.
    """
    column = jnp.arange(_SIZE)
    distance = 2 * jnp.abs(column - cannon) + (column > cannon)
    distance = jnp.where(aliens != 0, distance, 2 * _SIZE)
    nearest = (distance == jnp.min(distance)) & (aliens != 0)
    lowest = jax.lax.shift_right_logical(jnp.int32(-(2**31)), jax.lax.clz(aliens))
    return jnp.where(nearest, lowest, 0)
