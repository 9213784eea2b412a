"""Catch: move a paddle under a falling ball. Small, for tests and demonstrations.

As in bsuite (Osband et al. 2020, arXiv 1908.03568): a board of 10 rows and 5 columns, the ball
falls one row a step from a random column, three actions (left, stay, right), reward +1 or -1 when
it reaches the paddle's row, which ends the episode after 9 steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from actors.environments.vector import EnvironmentSpec, Timestep

ROWS, COLUMNS, ACTIONS = 10, 5, 3


class Board(NamedTuple):
    """One board; int32 each."""

    ball_row: jax.Array
    ball_column: jax.Array
    paddle: jax.Array  # column


class CatchState(NamedTuple):
    """One board that draws its balls itself."""

    key: jax.Array  # typed PRNG key
    ball_row: jax.Array  # as in `Board`
    ball_column: jax.Array
    paddle: jax.Array


class CatchStep(NamedTuple):
    """What one step gave, after the auto-reset contract of `vector.Timestep`."""

    observation: jax.Array  # [50] uint8, 255 where the ball and the paddle are
    reward: jax.Array
    ended: jax.Array
    valid: jax.Array


def new_ball(column: jax.Array) -> Board:
    """A ball at the top, the paddle in the middle."""
    return Board(jnp.zeros((), jnp.int32), column, jnp.full((), COLUMNS // 2, jnp.int32))


def observe(board: Board | CatchState) -> jax.Array:
    """The board as a vector [50] uint8."""
    cells = jnp.zeros((ROWS, COLUMNS), jnp.uint8)
    cells = cells.at[board.ball_row, board.ball_column].set(255)
    return cells.at[ROWS - 1, board.paddle].set(255).reshape(-1)


def play(board: Board, action: jax.Array, column: jax.Array) -> tuple[Board, CatchStep]:
    """One step; where the ball is down already, the action is ignored and a new one starts.

    Args:
        board: before the step.
        action: [] integer: left, stay, right.
        column: of the ball that would start.
    """
    down = board.ball_row == ROWS - 1
    paddle = jnp.clip(board.paddle + action - 1, 0, COLUMNS - 1)
    moved = Board(board.ball_row + 1, board.ball_column, paddle)
    board = jax.tree.map(lambda a, b: jnp.where(down, a, b), new_ball(column), moved)
    ended = ~down & (board.ball_row == ROWS - 1)
    caught = jnp.where(board.ball_column == board.paddle, 1.0, -1.0)
    reward = jnp.where(ended, caught, 0.0).astype(jnp.float32)
    return board, CatchStep(observe(board), reward, ended, ~down)


def reset(key: jax.Array) -> CatchState:
    """The first ball."""
    key, column = _draw(key)
    return CatchState(key, *new_ball(column))


def step(state: CatchState, action: jax.Array) -> tuple[CatchState, CatchStep]:
    """One step, as `play`."""
    key, column = _draw(state.key)
    board, result = play(Board(*state[1:]), action, column)
    return CatchState(jnp.where(result.valid, state.key, key), *board), result


def _draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The next key, and a ball's column."""
    key, draw = jax.random.split(key)
    return key, jax.random.randint(draw, (), 0, COLUMNS)


class Catch:
    """B boards on the host; see `VectorEnvironment`. Observations are [B, 50] uint8."""

    num_actions = ACTIONS
    observation_shape: tuple[int, ...] = (ROWS * COLUMNS,)
    observation_dtype = np.uint8
    frame_stack = 0

    def __init__(self, spec: EnvironmentSpec, num_envs: int, threads: int) -> None:
        del spec, threads  # nothing to choose
        self.num_envs = num_envs
        self._reset = jax.jit(jax.vmap(lambda seed: reset(jax.random.key(seed))))
        self._observe = jax.jit(jax.vmap(observe))
        self._step = jax.jit(jax.vmap(step))

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """New balls, each board's stream from its own seed."""
        self._state = self._reset(seeds.astype(np.int32))
        self._frames = np.zeros(self.num_envs, np.int32)
        return np.asarray(self._observe(self._state))

    def step(self, action: np.ndarray) -> Timestep:
        """Moves each paddle and lets each ball fall by one row."""
        self._state, result = self._step(self._state, action)
        observation, reward, ended, valid = jax.device_get(tuple(result))
        self._frames = np.where(valid, self._frames + 1, 0)
        return Timestep(
            observation=observation,
            reward=reward,
            discount=np.where(ended, np.float32(0), np.float32(1)),
            ended=ended,
            valid=valid,
            frames=self._frames,
        )

    def save(self) -> dict[str, np.ndarray]:
        """See `Resumable`."""
        state = self._state._replace(key=jax.random.key_data(self._state.key))
        return {**jax.device_get(state)._asdict(), "frames": self._frames}

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """See `Resumable`."""
        state = CatchState(*(jnp.asarray(saved[name]) for name in CatchState._fields))
        self._state = state._replace(key=jax.random.wrap_key_data(state.key))
        self._frames = saved["frames"]

    def close(self) -> None:
        """Holds nothing that needs closing."""
