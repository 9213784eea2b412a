"""The table of MinAtar's games, and the layer that lies around every game."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from actors.environments.minatar import asterix, breakout, freeway, seaquest, space_invaders

ALL_ACTIONS = 6  # nothing, left, up, right, down, fire
_SIZE = 10


class State(NamedTuple):
    """One environment: an episode of a game, and what the layer around it remembers."""

    game: Any  # the game's own state
    last_action: jax.Array  # [] int32, one of the six, as executed; outlives the episode
    over: jax.Array  # [] bool, whether the episode has ended


class Game(NamedTuple):
    """An environment as pure functions of one environment's state, for `vmap` and `scan`."""

    start: Callable[[jax.Array], State]  # draws [start_draws] -> state
    restart: Callable[[State, jax.Array], State]
    # (state of an episode that is over, draws [start_draws]) -> first state of the next one
    step: Callable[[State, jax.Array, jax.Array], tuple[State, jax.Array, jax.Array]]
    # (state, action [] int32, draws [step_draws]) -> (state, reward [] float32, over [] bool)
    observe: Callable[[State], jax.Array]  # state -> [10, 10, channels] bool
    num_actions: int
    observation_shape: tuple[int, int, int]
    start_draws: int
    step_draws: int


class _Rules(NamedTuple):
    """A game without the layer around it; its actions are always the six."""

    start: Callable[[jax.Array], Any]
    step: Callable[..., tuple[Any, jax.Array, jax.Array]]
    observe: Callable[[Any], jax.Array]
    minimal_actions: tuple[int, ...]
    channels: int
    start_draws: int
    step_draws: int
    ramps: bool  # whether it can get harder: `step` then takes `ramping`


def _rules(game: Any, ramps: bool) -> _Rules:
    """The functions and constants of a game's module."""
    return _Rules(
        start=game.start,
        step=game.step,
        observe=game.observe,
        minimal_actions=game.MINIMAL_ACTIONS,
        channels=game.CHANNELS,
        start_draws=game.START_DRAWS,
        step_draws=game.STEP_DRAWS,
        ramps=ramps,
    )


_GAMES = {
    "asterix": _rules(asterix, ramps=True),
    "breakout": _rules(breakout, ramps=False),
    "freeway": _rules(freeway, ramps=False),
    "seaquest": _rules(seaquest, ramps=True),
    "space_invaders": _rules(space_invaders, ramps=True),
}
GAMES = tuple(_GAMES)


def make_game(
    name: str,
    *,
    sticky_actions: float = 0.1,
    ramping: bool = True,
    minimal_actions: bool = True,
) -> Game:
    """A game with what lies around it: sticky actions, the set of actions, and its end.

    After the end of an episode a step changes nothing but the stored action, gives no reward and
    is over; only `restart` begins another one.

    Args:
        name: one of `GAMES`.
        sticky_actions: probability with which a step executes the action of the step before.
        ramping: whether Asterix, Seaquest and Space Invaders get harder; others have no such rule.
        minimal_actions: whether an action is an index into those that mean something in the game,
            or one of the six of all games.

    Returns:
        The functions. Of the draws of a step the first one is for stickiness.
    """
    rules = _GAMES[name]
    play = functools.partial(rules.step, ramping=ramping) if rules.ramps else rules.step
    actions = rules.minimal_actions if minimal_actions else tuple(range(ALL_ACTIONS))

    def start(draws: jax.Array) -> State:
        return State(rules.start(draws), jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    def restart(state: State, draws: jax.Array) -> State:
        return start(draws)._replace(last_action=state.last_action)

    def step(
        state: State, action: jax.Array, draws: jax.Array
    ) -> tuple[State, jax.Array, jax.Array]:
        action = _translated(action, actions)
        action = jnp.where(draws[0] < sticky_actions, state.last_action, action)
        game, reward, ends = play(state.game, action, draws[1:])
        game = jax.tree.map(lambda old, new: jnp.where(state.over, old, new), state.game, game)
        over = state.over | ends
        return State(game, action, over), jnp.where(state.over, 0.0, reward), over

    return Game(
        start=start,
        restart=restart,
        step=step,
        observe=lambda state: rules.observe(state.game),
        num_actions=len(actions),
        observation_shape=(_SIZE, _SIZE, rules.channels),
        start_draws=rules.start_draws,
        step_draws=1 + rules.step_draws,
    )


def _translated(index: jax.Array, actions: tuple[int, ...]) -> jax.Array:
    """The action of an index: by comparisons, as a table would have to be gathered from."""
    if actions == tuple(range(len(actions))):
        return index
    return functools.reduce(
        lambda rest, i: jnp.where(index == i, actions[i], rest), range(len(actions)), index
    )
