"""Two colours as a Gymnasium environment.

For `env.suite=gymnasium env.game=actors.environments.two_colours_gymnasium:TwoColours-v0`, and for
agents other than ours. In `TwoColoursRespawnAll-v0` a collection places all three anew. The rules
are in `two_colours`.
"""

import functools
from typing import Any, get_args

import gymnasium
import jax
import numpy as np

from actors.environments import two_colours
from actors.environments.two_colours import ACTIONS, FEATURES, SIZE, Respawn, TwoColoursState

_CELL_PIXELS = 32
_GRID_COLOUR, _FLOOR_COLOUR = 200, 245
_COLOURS = ((60, 60, 60), (40, 90, 220), (215, 50, 45))  # agent, blue, red


@functools.partial(jax.jit, static_argnames="respawn")
def _step(
    state: TwoColoursState,
    action: jax.Array,
    draw: jax.Array,
    swap_period: jax.Array,
    respawn: Respawn,
) -> tuple[TwoColoursState, jax.Array, jax.Array]:
    """Everything that `TwoColours.step` needs from one call. One program for all instances."""
    state, reward = two_colours.step(state, action, draw, swap_period, respawn)
    return state, two_colours.observe(state), reward


class TwoColours(gymnasium.Env[np.ndarray, np.int64]):
    """One grid that never terminates and is never truncated.

    Args:
        swap_period: steps between two swaps of the rewards.
        render_mode: `rgb_array` for pictures [160, 160, 3] uint8.
        respawn: what is placed anew after a collection, `object` or `all`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        swap_period: int = 100_000,
        render_mode: str | None = None,
        respawn: Respawn = "object",
    ) -> None:
        if not 1 <= swap_period < 2**30:
            raise ValueError(f"swap_period={swap_period}: must be at least 1 and less than 2^30")
        if respawn not in get_args(Respawn):
            raise ValueError(f"respawn={respawn}: must be one of {', '.join(get_args(Respawn))}")
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (FEATURES,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(ACTIONS)
        self.render_mode = render_mode
        self._swap_period, self._respawn = np.int32(swap_period), respawn

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Puts all three into new cells and the clock back to zero."""
        super().reset(seed=seed, options=options)
        self._state = two_colours.reset(jax.random.key(self.np_random.integers(2**31)))
        return np.array(two_colours.observe(self._state)), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Plays one action; the arrays that it returns are the caller's."""
        assert self.action_space.contains(action), f"{action!r} is no action"
        # The casts keep to one signature, and so to one compiled program.
        draw = np.float32(self.np_random.random(dtype=np.float32))
        self._state, observation, reward = _step(
            self._state, np.int32(action), draw, self._swap_period, respawn=self._respawn
        )
        return np.array(observation), float(reward), False, False, {}

    def render(self) -> np.ndarray | None:  # type: ignore[override]  # its type is too narrow
        """A square for each of the three on a grid, [160, 160, 3] uint8."""
        if self.render_mode != "rgb_array":
            return None
        picture = np.full((SIZE * _CELL_PIXELS, SIZE * _CELL_PIXELS, 3), _FLOOR_COLOUR, np.uint8)
        picture[::_CELL_PIXELS] = picture[:, ::_CELL_PIXELS] = _GRID_COLOUR
        position = np.asarray(self._state.position)
        for (row, column), colour in zip(position * _CELL_PIXELS, _COLOURS, strict=True):
            picture[row + 6 : row + 27, column + 6 : column + 27] = colour
        return picture


# Without `max_episode_steps`: nothing cuts it. Two names: a name is what stands beside a score.
for _name, _respawn in (("TwoColours-v0", "object"), ("TwoColoursRespawnAll-v0", "all")):
    gymnasium.register(_name, f"{__name__}:{TwoColours.__name__}", kwargs={"respawn": _respawn})
