"""MinAtar's games as Gymnasium environments.

For `env.suite=gymnasium env.game=actors.environments.minatar_gymnasium:MinAtarBreakout-v1`, and for
agents other than ours. That takes the game's own actions, `MinAtarBreakoutAllActions-v1` all six.
The rules are in `minatar`.
"""

import functools
from typing import Any

import gymnasium
import jax
import numpy as np

from actors.environments.minatar.games import GAMES, make_game

_CELL_PIXELS = 16
_COLOURS = (  # of channels; the first one of a cell is seen
    *((60, 60, 60), (40, 90, 220), (160, 180, 220), (215, 50, 45), (240, 160, 30)),
    *((30, 150, 90), (140, 60, 170), (120, 200, 235), (250, 215, 60), (230, 130, 180)),
)
_FLOOR_COLOUR = 245


@functools.cache
def _programs(name: str, sticky_actions: float, ramping: bool, minimal_actions: bool) -> Any:
    """A `Game` whose functions are compiled, once for all instances; NumPy's arrays will do."""
    game = make_game(
        name,
        sticky_actions=sticky_actions,
        ramping=ramping,
        minimal_actions=minimal_actions,
    )
    return game._replace(
        start=jax.jit(game.start),
        restart=jax.jit(game.restart),
        step=jax.jit(game.step),
        observe=jax.jit(game.observe),
    )


class MinAtar(gymnasium.Env[np.ndarray, np.int64]):
    """One game, which is never truncated.

    Args:
        game: asterix, breakout, freeway, seaquest or space_invaders.
        sticky_actions: probability that a step repeats the action executed before it.
        ramping: whether the games that can become harder do.
        minimal_actions: the game's own actions instead of all six.
        render_mode: `rgb_array` for pictures [160, 160, 3] uint8.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(
        self,
        game: str,
        sticky_actions: float = 0.1,
        ramping: bool = True,
        minimal_actions: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if game not in GAMES:
            raise ValueError(f"game={game}: must be one of {', '.join(GAMES)}")
        if not 0.0 <= sticky_actions < 1.0:
            raise ValueError(f"sticky_actions={sticky_actions}: must be at least 0 and less than 1")
        self._game = _programs(game, sticky_actions, ramping, minimal_actions)
        shape = self._game.observation_shape
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, shape, np.float32)
        self.action_space = gymnasium.spaces.Discrete(self._game.num_actions)
        self.render_mode = render_mode
        self._state: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new episode; what the sticky layer remembers is forgotten with a new seed only."""
        super().reset(seed=seed, options=options)
        draws = self._draws(self._game.start_draws)
        if self._state is None or seed is not None:
            self._state = self._game.start(draws)
        else:
            self._state = self._game.restart(self._state, draws)
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Plays one action; the arrays that it returns are the caller's."""
        assert self.action_space.contains(action), f"{action!r} is no action"
        draws = self._draws(self._game.step_draws)
        self._state, reward, over = self._game.step(self._state, np.int32(action), draws)
        return self._observation(), float(reward), bool(over), False, {}

    def render(self) -> np.ndarray | None:  # type: ignore[override]  # its type is too narrow
        """Coloured cells, [160, 160, 3] uint8."""
        if self.render_mode != "rgb_array":
            return None
        board = self._observation()
        picture = np.full((*board.shape[:2], 3), _FLOOR_COLOUR, np.uint8)
        for channel in reversed(range(board.shape[2])):
            picture[board[:, :, channel] > 0] = _COLOURS[channel]
        return picture.repeat(_CELL_PIXELS, axis=0).repeat(_CELL_PIXELS, axis=1)

    def _draws(self, count: int) -> np.ndarray:
        return self.np_random.random(count, dtype=np.float32)

    def _observation(self) -> np.ndarray:
        return np.asarray(self._game.observe(self._state), np.float32)


for _name in GAMES:
    for _suffix, _minimal in (("", True), ("AllActions", False)):
        gymnasium.register(
            f"MinAtar{_name.title().replace('_', '')}{_suffix}-v1",
            f"{__name__}:{MinAtar.__name__}",
            kwargs={"game": _name, "minimal_actions": _minimal},
        )
