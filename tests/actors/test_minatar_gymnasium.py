"""MinAtar through Gymnasium: its own checks, and the pure functions behind it."""

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.seeding import np_random

from actors.environments.minatar.games import make_game

MODULE = "actors.environments.minatar_gymnasium"


def test_gymnasium_finds_nothing_to_complain_of():
    environment = gymnasium.make(f"{MODULE}:MinAtarBreakout-v1")
    check_env(environment.unwrapped, skip_render_check=True)
    assert environment.action_space == gymnasium.spaces.Discrete(3)
    assert environment.observation_space.shape == (10, 10, 4)
    assert environment.spec.max_episode_steps is None
    assert gymnasium.make(f"{MODULE}:MinAtarSpaceInvadersAllActions-v1").action_space.n == 6


def test_it_plays_the_pure_functions():
    """Over several episodes: the stored action outlives each of them."""
    environment = gymnasium.make(f"{MODULE}:MinAtarBreakout-v1", render_mode="rgb_array")
    game = make_game("breakout")
    step, observe = jax.jit(game.step), jax.jit(game.observe)
    observation, _ = environment.reset(seed=4)
    random, _ = np_random(4)
    state = game.start(random.random(game.start_draws, dtype=np.float32))
    episodes = 0
    for action in np.random.default_rng(5).integers(3, size=150):
        np.testing.assert_array_equal(observation, observe(state))
        assert observation.dtype == np.float32
        assert observation.flags.writeable  # the caller's own
        observation, reward, over, truncated, _ = environment.step(action)
        draws = random.random(game.step_draws, dtype=np.float32)
        state, expected, ends = step(state, np.int32(action), draws)
        assert (reward, over, truncated) == (float(expected), bool(ends), False)
        if over:
            episodes += 1
            observation, _ = environment.reset()
            state = game.restart(state, random.random(game.start_draws, dtype=np.float32))
    assert episodes > 3
    picture = environment.render()
    assert picture.shape == (160, 160, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) >= 4  # floor, paddle, ball, bricks
    environment.close()


@pytest.mark.parametrize(
    ("keys", "message"), [({"game": "pong"}, "asterix"), ({"sticky_actions": 1.0}, "less than 1")]
)
def test_bad_arguments_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make(f"{MODULE}:MinAtarBreakout-v1", **keys)
