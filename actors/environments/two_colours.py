"""Two colours: a small non-stationary grid world that never ends. Pure functions, no host view.

As in Flennerhag et al. 2021 (arXiv 2109.04504, section 5.1; the rules are restated by Luketina et
al., CoLLAs 2022): an agent, a blue and a red object on a grid of 5 by 5, started in cells drawn
without replacement; four actions (up, right, down, left), walking into a wall is staying. Entering
an object's cell collects it: +1 for the colour that is good now, -1 for the other. Every other step
gives -0.04. What the colours are worth swaps every `swap_period` steps (100,000 in the paper),
beginning with blue as the good one. The observation shows the cells but not the clock, so the agent
has to find out from rewards.

There are two worlds, by what is placed anew when an object has been collected. `object`: that one
jumps to one of the 23 cells that hold neither the agent nor the other object, which stays (the
public replication; at best 0.279 a step). `all`: agent and both objects are put into cells drawn
without replacement, as at the start (the text of Luketina et al., whose totals are published; at
best 0.269 a step).

`step` takes its random number as an argument: those of a whole unroll can be made at once, and
another implementation can be fed the same ones.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

SIZE = 5  # rows and columns
ACTIONS = 4
FEATURES = 3 * 2 * SIZE

_UP, _RIGHT, _DOWN, _LEFT = range(ACTIONS)
_CELLS = SIZE * SIZE  # counted row by row from the top left one
_FREE_CELLS = _CELLS - 2  # of an object that jumps
_PLACES = _CELLS * (_CELLS - 1) * _FREE_CELLS  # of three in different cells
_STEP_REWARD = -0.04
OBJECT_REWARD = 1.0  # of the good one; the other's is its negative

Respawn = Literal["object", "all"]


class TwoColoursState(NamedTuple):
    """One grid. No two of the three ever share a cell."""

    position: jax.Array  # [3, 2] int32, row and column of the agent, the blue and the red object
    clock: jax.Array  # int32, steps taken, modulo two swap periods, so that it never overflows


def reset(key: jax.Array) -> TwoColoursState:
    """Three different cells, and the clock at zero.

    Args:
        key: typed PRNG key.

    Returns:
        The first state.
    """
    cell = jax.random.choice(key, _CELLS, (3,), replace=False).astype(jnp.int32)
    return TwoColoursState(_position(cell), jnp.zeros((), jnp.int32))


def features(position: jax.Array) -> jax.Array:
    """What the agent sees of positions, whatever axes lead.

    Args:
        position: [..., 3, 2] int32, as in `TwoColoursState`.

    Returns:
        [..., 30] float32: for the agent, the blue and the red object in turn, its row and then its
        column, each one-hot.
    """
    one_hot = jax.nn.one_hot(position, SIZE, dtype=jnp.float32)
    return one_hot.reshape(*position.shape[:-2], FEATURES)


def observe(state: TwoColoursState) -> jax.Array:
    """The observation [30] float32; see `features`."""
    return features(state.position)


def step(
    state: TwoColoursState,
    action: jax.Array,
    draw: jax.Array,
    swap_period: int | jax.Array,
    respawn: Respawn,
) -> tuple[TwoColoursState, jax.Array]:
    """One step. All of it is arithmetic on scalars and triples: it shall cost little in a scan.

    Args:
        state: before the step.
        action: [] integer: up, right, down, left.
        draw: [] float32 in [0, 1), which places anew. `object`: the free cell number
            floor(23 * draw), rounded as float32, counted row by row from the top. `all`: one of the
            13,800 places of three, number floor(13,800 * draw) with the agent's cell as its most
            significant digit; a draw of 23 bits makes each equally likely to 0.2%.
        swap_period: steps between two swaps of the rewards, less than 2^30.
        respawn: what is placed anew after a collection.

    Returns:
        The state after the step, and the reward [] float32.
    """
    row = jnp.clip(state.position[0, 0] + (action == _DOWN) - (action == _UP), 0, SIZE - 1)
    column = jnp.clip(state.position[0, 1] + (action == _RIGHT) - (action == _LEFT), 0, SIZE - 1)
    agent = SIZE * row + column
    blue, red = SIZE * state.position[1:, 0] + state.position[1:, 1]
    collects_blue, collects_red = agent == blue, agent == red

    good = jnp.where(state.clock < swap_period, OBJECT_REWARD, -OBJECT_REWARD)
    reward = jnp.where(collects_blue, good, jnp.where(collects_red, -good, _STEP_REWARD))

    if respawn == "object":
        other = jnp.where(collects_blue, red, blue)
        target = _free_cell(_number_below(_FREE_CELLS, draw), agent, other)
        cells = agent, jnp.where(collects_blue, target, blue), jnp.where(collects_red, target, red)
    else:
        number = _number_below(_PLACES, draw)
        new_agent = number // (_PLACES // _CELLS)
        new_blue = number // _FREE_CELLS % (_CELLS - 1)
        new_blue = new_blue + (new_blue >= new_agent)
        new_red = _free_cell(number % _FREE_CELLS, new_agent, new_blue)
        new, old = (new_agent, new_blue, new_red), (agent, blue, red)
        collects = collects_blue | collects_red
        cells = tuple(jnp.where(collects, a, b) for a, b in zip(new, old, strict=True))

    clock = state.clock + 1
    clock = jnp.where(clock >= 2 * swap_period, 0, clock)
    return TwoColoursState(_position(jnp.stack(cells)), clock), reward.astype(jnp.float32)


def _number_below(count: int, draw: jax.Array) -> jax.Array:
    """An integer from 0 to `count` - 1.

    The bound is for a draw of 1, which a double just below 1 is as float32.
    """
    return jnp.minimum((count * draw).astype(jnp.int32), count - 1)


def _free_cell(number: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """The cell of a number among those that two do not take.

    It becomes one among all cells by stepping over the taken ones, the lower one first.
    """
    cell = number + (number >= jnp.minimum(one, other))
    return cell + (cell >= jnp.maximum(one, other))


def _position(cell: jax.Array) -> jax.Array:
    """Numbers of cells [3] as rows and columns [3, 2]."""
    return jnp.stack([cell // SIZE, cell % SIZE], axis=-1)
