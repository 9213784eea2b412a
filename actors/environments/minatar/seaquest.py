"""Seaquest of MinAtar: a submarine between fish, enemy submarines and divers, as pure functions.

The game's rules go through lists, some of them from the newest entry on. Here a list is an array of
slots in the order of their spawning, the newest first: a new entry shifts the others by one, and
one that vanishes leaves a hole. So the number of slots is that of spawns in the longest life of an
entry, and nothing is sorted. A set of slots is a uint32, whose bit i is slot i: the newest of a set
is its lowest bit and the oldest its highest, and rules that take one entry after the other become
a few operations on scalars.

A cell is an int32, 16 * row + column + 1, so that sideways is +1 or -1, and what leaves the grid
has 0 or 11 in its low four bits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

MINIMAL_ACTIONS = (0, 1, 2, 3, 4, 5)
CHANNELS = 10  # front, back, own bullet, trail, enemy bullet, fish, enemy, oxygen, divers, diver
START_DRAWS = 0
STEP_DRAWS = 5

_LEFT, _UP, _RIGHT, _DOWN, _FIRE = 1, 2, 3, 4, 5
_SIZE = 10
_BOTTOM = _SIZE - 1  # the row of the bars
_LINE = 0b111_1111_1110  # the bits of a row's cells, where bit x + 1 is column x
_GONE = 13  # the cell of an empty slot: neither it nor its neighbours are on the grid
_NO_BULLET = 16 + 13  # another one, so that no empty slot meets an empty slot

# An enemy leaves 10 M + 9 steps after its spawn, and M is 2 when there is one in each step.
_ENEMIES = 32
_BULLETS = 2  # in the air for 9 steps, fired every 5
_DIVERS = 2  # there for 60 steps, spawned every 30

_OXYGEN = 200
_MAX_DIVERS = 6
_ENEMY_INTERVAL = 20
_DIVER_INTERVAL = 30
_MOVE_INTERVAL = 5
_SHORTEST_MOVE_INTERVAL = 2
_ENEMY_SHOTS = 10
_COOLDOWN = 5
_DIVER_MOVES = 5


class State(NamedTuple):
    """One episode. Intervals and countdowns are in steps."""

    x: jax.Array  # [] int32, column of the submarine's front
    y: jax.Array  # [] int32, its row, 0 (the surface) to 8
    faces_right: jax.Array  # [] bool
    surfaced: jax.Array  # [] bool, whether this stay at the surface has been counted
    oxygen: jax.Array  # [] int32, steps under water that are left
    divers: jax.Array  # [] int32, collected ones; below 0 after a rescue
    cooldown: jax.Array  # [] int32, until the submarine can shoot
    enemy_interval: jax.Array  # [] int32, of their spawning
    enemy_countdown: jax.Array  # [] int32
    diver_countdown: jax.Array  # [] int32
    move_interval: jax.Array  # [] int32, of the enemies
    ramp_level: jax.Array  # [] int32
    bullet_cell: jax.Array  # [2] int32, own ones, as cells of the module's text
    bullet_way: jax.Array  # [2] int32, +1 right or -1 left
    diver_cell: jax.Array  # [2] int32
    diver_way: jax.Array  # [2] int32
    diver_move: jax.Array  # [2] int32, countdown
    enemy_cell: jax.Array  # [32] int32, fish and enemy submarines
    enemy_move: jax.Array  # [32] int32, countdown
    enemy_shot: jax.Array  # [32] int32, countdown, of no meaning for fish
    enemy_right: jax.Array  # [] uint32, the slots that move right
    enemy_submarine: jax.Array  # [] uint32, the slots that are submarines, the others being fish
    bombs_left: jax.Array  # [10] int32, the enemies' bullets by row: bit x + 1 is column x
    bombs_right: jax.Array  # [10] int32, those that move right


def start(draws: jax.Array) -> State:
    """The first state of an episode, always the same one; `draws` are [0]."""
    del draws

    def full(value: int, *shape: int) -> jax.Array:
        return jnp.full(shape, value, jnp.int32)

    return State(
        x=full(5),
        y=full(0),
        faces_right=jnp.zeros((), bool),
        surfaced=jnp.ones((), bool),
        oxygen=full(_OXYGEN),
        divers=full(0),
        cooldown=full(0),
        enemy_interval=full(_ENEMY_INTERVAL),
        enemy_countdown=full(_ENEMY_INTERVAL),
        diver_countdown=full(_DIVER_INTERVAL),
        move_interval=full(_MOVE_INTERVAL),
        ramp_level=full(0),
        bullet_cell=full(_NO_BULLET, _BULLETS),
        bullet_way=full(1, _BULLETS),
        diver_cell=full(_GONE, _DIVERS),
        diver_way=full(1, _DIVERS),
        diver_move=full(0, _DIVERS),
        enemy_cell=full(_GONE, _ENEMIES),
        enemy_move=full(0, _ENEMIES),
        enemy_shot=full(0, _ENEMIES),
        enemy_right=jnp.zeros((), jnp.uint32),
        enemy_submarine=jnp.zeros((), jnp.uint32),
        bombs_left=full(0, _SIZE),
        bombs_right=full(0, _SIZE),
    )


def step(
    state: State, action: jax.Array, draws: jax.Array, ramping: bool
) -> tuple[State, jax.Array, jax.Array]:
    """One step.

    Args:
        state: before the step.
        action: [] int32, one of the six.
        draws: [5] float32 in [0, 1): direction, kind and row of an enemy, direction and row of a
            diver, if they are spawned.
        ramping: whether enemies become more and faster with each surfacing.

    Returns:
        The state after the step, the reward [] float32, and whether the episode ends [] bool.
    """
    state = _spawn_diver(_spawn_enemy(state, draws[:3]), draws[3:])
    state = _act(state, action)
    state, shot = _move_bullets(state)
    state = _move_divers(state)
    state, met, rammed = _move_enemies(state)
    state, bombed = _move_bombs(state)
    state = state._replace(
        enemy_countdown=jnp.maximum(state.enemy_countdown - 1, 0),
        diver_countdown=jnp.maximum(state.diver_countdown - 1, 0),
        cooldown=jnp.maximum(state.cooldown - 1, 0),
    )
    suffocates = state.oxygen <= 0
    state, rescued, drowns = _breathe(state, ramping)
    reward = (shot + rammed + rescued).astype(jnp.float32)
    return state, reward, met | bombed | suffocates | drowns


def observe(state: State) -> jax.Array:
    """The observation [10, 10, 10] bool.

    Channels: the submarine's front and back, own bullets, trails of enemies and divers, enemy
    bullets, fish, enemy submarines, the bar of oxygen, the bar of collected divers, divers.
    """
    front = _cell(state.y, state.x)
    way = jnp.where(_flags(state.enemy_right), 1, -1)
    is_submarine = _flags(state.enemy_submarine)
    row = jnp.arange(_SIZE)
    oxygen_bar = (2 << _tenths(jnp.maximum(state.oxygen, 0))) - 2  # columns 0 to n - 1
    diver_bar = 0b11_1111_1110 & -(1 << (_SIZE - jnp.maximum(state.divers, 0)))  # 9 - n to 8
    bottom = row == _BOTTOM
    table = jnp.stack(
        [
            _line(front[None]),
            _line(jnp.where(state.faces_right, front - 1, front + 1)[None]),
            _line(state.bullet_cell),
            _line(state.enemy_cell - way) | _line(state.diver_cell - state.diver_way),
            state.bombs_left | state.bombs_right,
            _line(jnp.where(is_submarine, _GONE, state.enemy_cell)),
            _line(jnp.where(is_submarine, state.enemy_cell, _GONE)),
            jnp.where(bottom, oxygen_bar, 0),
            jnp.where(bottom, diver_bar, 0),
            _line(state.diver_cell),
        ],
        -1,
    )
    return (table[:, None, :] >> (1 + row)[None, :, None]) & 1 != 0


def _spawn_enemy(state: State, draws: jax.Array) -> State:
    """A fish or an enemy submarine, unless one of the other direction is in its row."""
    due = state.enemy_countdown == 0
    right = draws[0] < 0.5
    submarine = draws[1] < 1 / 3
    row = _row(draws[2])
    blocked = (state.enemy_cell >> 4 == row) & (_flags(state.enemy_right) != right)
    born = due & ~jnp.any(blocked)

    def shift(slots: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(born, _shift(slots, new), slots)

    def shift_set(slots: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(born, (slots << 1) | new.astype(jnp.uint32), slots)

    return state._replace(
        enemy_countdown=jnp.where(due, state.enemy_interval, state.enemy_countdown),
        enemy_cell=shift(state.enemy_cell, _edge(row, right)),
        enemy_move=shift(state.enemy_move, state.move_interval),
        enemy_shot=shift(state.enemy_shot, jnp.int32(_ENEMY_SHOTS)),
        enemy_right=shift_set(state.enemy_right, right),
        enemy_submarine=shift_set(state.enemy_submarine, submarine),
    )


def _spawn_diver(state: State, draws: jax.Array) -> State:
    due = state.diver_countdown == 0
    right = draws[0] < 0.5

    def shift(slots: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(due, _shift(slots, new), slots)

    return state._replace(
        diver_countdown=jnp.where(due, _DIVER_INTERVAL, state.diver_countdown),
        diver_cell=shift(state.diver_cell, _edge(_row(draws[1]), right)),
        diver_way=shift(state.diver_way, jnp.where(right, 1, -1)),
        diver_move=shift(state.diver_move, jnp.int32(_DIVER_MOVES)),
    )


def _act(state: State, action: jax.Array) -> State:
    """The submarine moves, turns or shoots."""
    fires = (action == _FIRE) & (state.cooldown == 0)
    way = jnp.where(state.faces_right, 1, -1)
    bullet_cell = _shift(state.bullet_cell, _cell(state.y, state.x))
    return state._replace(
        x=jnp.clip(state.x + (action == _RIGHT) - (action == _LEFT), 0, _SIZE - 1),
        y=jnp.clip(state.y + (action == _DOWN) - (action == _UP), 0, _BOTTOM - 1),
        faces_right=(state.faces_right | (action == _RIGHT)) & (action != _LEFT),
        cooldown=jnp.where(fires, _COOLDOWN, state.cooldown),
        bullet_cell=jnp.where(fires, bullet_cell, state.bullet_cell),
        bullet_way=jnp.where(fires, _shift(state.bullet_way, way), state.bullet_way),
    )


def _move_bullets(state: State) -> tuple[State, jax.Array]:
    """Own bullets, and how many enemies they hit [] int32.

    The newest bullet comes first. It takes the oldest fish of its cell, else the oldest submarine.
    """
    cell = _move(state.bullet_cell, state.bullet_way, _NO_BULLET)
    there = _slots(state.enemy_cell[None] == cell[:, None])

    def choose(slots: jax.Array) -> jax.Array:
        fish = slots & ~state.enemy_submarine
        return _oldest(jnp.where(fish != 0, fish, slots))

    first = choose(there[0])
    second = choose(there[1] & ~first)
    hits = jnp.stack([first, second]) != 0
    state = state._replace(
        bullet_cell=jnp.where(hits, _NO_BULLET, cell),
        enemy_cell=jnp.where(_flags(first | second), _GONE, state.enemy_cell),
    )
    return state, jnp.sum(hits)


def _move_divers(state: State) -> State:
    """Divers move and are collected, the newest first, as long as there is room."""
    here = _cell(state.y, state.x)
    due = state.diver_move == 0
    moved = _move(state.diver_cell, jnp.where(due, state.diver_way, 0), _GONE)
    # One that moves away has been there when the submarine was full.
    there = (state.diver_cell == here) | (moved == here)
    first = there[0] & (state.divers < _MAX_DIVERS)
    divers = state.divers + first
    second = there[1] & (divers < _MAX_DIVERS)
    return state._replace(
        divers=divers + second,
        diver_cell=jnp.where(jnp.stack([first, second]), _GONE, moved),
        diver_move=jnp.where(due, _DIVER_MOVES, state.diver_move - 1),
    )


def _move_enemies(state: State) -> tuple[State, jax.Array, jax.Array]:
    """Enemies move, meet the submarine, drive into own bullets, and shoot.

    Submarines come before fish and newer ones before older ones, and each takes the oldest bullet
    of its cell. That is the same as each bullet, the oldest first, taking the newest submarine of
    its cell, else the newest fish.

    Returns:
        The state, whether the submarine was met [] bool, and how many enemies were hit [] int32.
    """
    here = _cell(state.y, state.x)
    due = state.enemy_move == 0
    way = jnp.where(_flags(state.enemy_right), 1, -1)
    moved = _move(state.enemy_cell, jnp.where(due, way, 0), _GONE)
    met = jnp.any((state.enemy_cell == here) | (moved == here))

    drives = jnp.where(due & (moved != here), moved, _GONE)
    into = _slots(drives[None] == state.bullet_cell[:, None])

    def choose(slots: jax.Array) -> jax.Array:
        submarines = slots & state.enemy_submarine
        return _newest(jnp.where(submarines != 0, submarines, slots))

    older = choose(into[1])
    newer = choose(into[0] & ~older)
    hits = jnp.stack([newer, older]) != 0

    # An enemy that was hit in this step still shoots, one that has left the grid does so in vain.
    shoots = state.enemy_shot == 0
    shots = jnp.where(shoots & _flags(state.enemy_submarine), moved, _GONE)
    bit = 1 << ((shots & 15) + jnp.where(_flags(state.enemy_right), 16, 0))
    row = jnp.arange(_SIZE)[:, None]
    fresh = _union(jnp.where((shots[None] >> 4 == row) & _inside(shots)[None], bit[None], 0))
    state = state._replace(
        bullet_cell=jnp.where(hits, _NO_BULLET, state.bullet_cell),
        enemy_cell=jnp.where(_flags(older | newer), _GONE, moved),
        enemy_move=jnp.where(due, state.move_interval, state.enemy_move - 1),
        enemy_shot=jnp.where(shoots, _ENEMY_SHOTS, state.enemy_shot - 1),
        bombs_left=state.bombs_left | (fresh & _LINE),
        bombs_right=state.bombs_right | (fresh >> 16),
    )
    return state, met, jnp.sum(hits)


def _move_bombs(state: State) -> tuple[State, jax.Array]:
    """The enemies' bullets, and whether one is in the submarine's cell, before or after."""
    left = state.bombs_left >> 1 & _LINE
    right = state.bombs_right << 1 & _LINE
    anywhere = state.bombs_left | state.bombs_right | left | right
    hit = jnp.any((jnp.arange(_SIZE) == state.y) & (anywhere >> (state.x + 1) & 1 != 0))
    return state._replace(bombs_left=left, bombs_right=right), hit


def _breathe(state: State, ramping: bool) -> tuple[State, jax.Array, jax.Array]:
    """Oxygen under water, and what happens on arrival at the surface.

    Returns:
        The state, the reward of a rescue [] int32, and whether the submarine came up without
        divers [] bool.
    """
    under_water = state.y > 0
    arrives = ~under_water & ~state.surfaced
    counts = arrives & (state.divers != 0)
    rescues = counts & (state.divers == _MAX_DIVERS)
    reward = jnp.where(rescues, _tenths(state.oxygen), 0)
    divers = jnp.where(rescues, -1, state.divers - counts)
    oxygen = jnp.where(counts, _OXYGEN, state.oxygen - under_water)
    after = state._replace(
        oxygen=oxygen, divers=divers, surfaced=~under_water & (state.surfaced | counts)
    )
    if ramping:
        fewer = state.enemy_interval > 1
        faster = state.move_interval > _SHORTEST_MOVE_INTERVAL
        ramps = counts & (fewer | faster)
        odd = state.ramp_level & 1 == 1
        after = after._replace(
            enemy_interval=state.enemy_interval - (ramps & fewer),
            move_interval=state.move_interval - (ramps & odd & faster),
            ramp_level=state.ramp_level + ramps,
        )
    return after, reward, arrives & ~counts


def _tenths(oxygen: jax.Array) -> jax.Array:
    """Full tenths of the oxygen, which is not negative."""
    return jax.lax.div(oxygen, jnp.int32(_OXYGEN // 10))


def _row(draw: jax.Array) -> jax.Array:
    """A row from 1 to 8, in which things are spawned."""
    rows = _BOTTOM - 1
    return 1 + jnp.minimum((rows * draw).astype(jnp.int32), rows - 1)


def _cell(row: jax.Array, column: jax.Array) -> jax.Array:
    return 16 * row + column + 1


def _edge(row: jax.Array, right: jax.Array) -> jax.Array:
    """The cell in which something begins that moves right or left."""
    return 16 * row + jnp.where(right, 1, _SIZE)


def _inside(cell: jax.Array) -> jax.Array:
    """Whether cells are on the grid."""
    column = cell & 15
    return (column >= 1) & (column <= _SIZE)


def _move(cell: jax.Array, way: jax.Array, gone: int) -> jax.Array:
    """Cells after a move sideways, or `gone` outside the grid."""
    moved = cell + way
    return jnp.where(_inside(moved), moved, gone)


def _shift(slots: jax.Array, new: jax.Array) -> jax.Array:
    """Slots with a new first one. The last one has long been empty."""
    rolled = jnp.roll(slots, 1)
    return jnp.where(jnp.arange(slots.size) == 0, new, rolled)


def _line(cell: jax.Array) -> jax.Array:
    """The bits of cells [N] row by row [10], without those outside the grid."""
    row = jnp.arange(_SIZE)[:, None]
    here = (cell[None] >> 4 == row) & _inside(cell)[None]
    return _union(jnp.where(here, 1 << (cell & 15)[None], 0))


def _union(words: jax.Array) -> jax.Array:
    """Bits of any of the words [..., N]."""
    zero = jnp.zeros((), words.dtype)
    return jax.lax.reduce(words, zero, jax.lax.bitwise_or, (words.ndim - 1,))


def _slots(flags: jax.Array) -> jax.Array:
    """Sets [...] uint32 of slots from flags [..., N]."""
    bit = jnp.uint32(1) << jnp.arange(flags.shape[-1], dtype=jnp.uint32)
    return _union(jnp.where(flags, jnp.broadcast_to(bit, flags.shape), jnp.uint32(0)))


def _flags(slots: jax.Array) -> jax.Array:
    """Flags [32] of a set of slots."""
    return slots >> jnp.arange(_ENEMIES, dtype=jnp.uint32) & 1 != 0


def _newest(slots: jax.Array) -> jax.Array:
    """The newest slot of a set, as a set, empty if that is."""
    return slots & (~slots + 1)


def _oldest(slots: jax.Array) -> jax.Array:
    """The oldest slot of a set, as a set, empty if that is."""
    highest = jnp.uint32(1 << 31)
    return jnp.where(slots == 0, 0, jax.lax.shift_right_logical(highest, jax.lax.clz(slots)))
