"""Games inside a program: resets, time limits and episodes of MinAtar's, whose rules have tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actors.environments.device import changing, make_catch, make_minatar, permutations
from actors.environments.minatar.games import make_game
from actors.on_device import make_players
from agents.networks import make_network

STEPS, COUNT = 60, 8


def _environment(limit, sticky_actions=0.1):
    return make_minatar(
        "breakout",
        sticky_actions=sticky_actions,
        ramping=True,
        minimal_actions=True,
        max_episode_steps=limit,
    )


@pytest.fixture(scope="module", params=[7, 10_000], ids=["limited", "unlimited"])
def played(request):
    environment = _environment(request.param)
    network = make_network("small", 3, environment.observation_shape, jnp.bool_)
    reset, unroll = make_players(environment, network, STEPS, COUNT)
    params = network.init(jax.random.key(0))
    first = reset(jax.random.key(1))
    return request.param, first, *jax.jit(unroll)(params, first, jax.random.key(2))


def test_a_step_after_each_end_is_the_reset(played):
    limit, _, last, trajectory, episodes = played
    valid = np.asarray(trajectory.valid)
    cut = endings = 0
    for b in range(COUNT):
        length = 0
        for t in range(STEPS):
            if valid[t, b]:
                length += 1
            else:
                assert length > 0
                assert trajectory.reward[t, b] == 0.0
                assert trajectory.discount[t, b] == 1.0
                first = np.asarray(trajectory.observation[t + 1, b])
                assert first[:, :, 3].sum() == 30  # all bricks
                assert first[3, [0, 9], 1].sum() == 1  # the ball starts at a side, row 3
                length = 0
            ended = t + 1 < STEPS and not valid[t + 1, b]
            if ended:
                is_ending = trajectory.discount[t, b] == 0.0
                cut, endings = cut + (not is_ending), endings + is_ending
                assert is_ending or length == limit
            assert length <= limit
        assert last.episode_length[b] in (length, 0)
    assert endings > 5
    assert (cut > 0) == (limit == 7)
    assert float(episodes.ended) >= cut + endings  # an end in the last step has its reset later


def test_observations_are_those_of_the_game():
    """The same game, stepped by hand from its first state: without stickiness nothing is drawn."""
    environment, game = (
        _environment(10_000, sticky_actions=0.0),
        make_game("breakout", sticky_actions=0.0),
    )
    network = make_network("small", 3, environment.observation_shape, jnp.bool_)
    reset, unroll = make_players(environment, network, STEPS, COUNT)
    first = reset(jax.random.key(1))
    _, trajectory, _ = jax.jit(unroll)(network.init(jax.random.key(0)), first, jax.random.key(2))
    step, observe = jax.jit(game.step), jax.jit(game.observe)
    for b in range(3):
        state = jax.tree.map(lambda x, b=b: x[b], first.state.game)
        for t in range(STEPS):
            np.testing.assert_array_equal(trajectory.observation[t, b], observe(state))
            state, reward, over = step(state, trajectory.action[t, b], jnp.ones(1))
            assert trajectory.reward[t, b] == reward
            if over:
                assert trajectory.discount[t, b] == 0.0
                break


def test_a_limit_bootstraps_from_the_last_observation(played):
    limit, _, _, trajectory, _ = played
    if limit != 7:
        return
    t, b = next(
        (t, b)
        for b in range(COUNT)
        for t in range(STEPS - 1)
        if not trajectory.valid[t + 1, b] and trajectory.discount[t, b] == 1.0
    )
    seen = np.asarray(trajectory.observation[t + 1, b])
    assert not seen[3, [0, 9], 1].any()  # still the old episode's


def test_actions_are_permuted_in_all_games_at_once():
    """Catch against boards whose actions are translated outside, over more than a whole series."""
    every, plain = 3, make_catch()
    environment, series = changing(plain, every, 7), permutations(3, 7)
    assert series.shape == (64, 3)
    np.testing.assert_array_equal(series[0], [0, 1, 2])
    assert (np.sort(series, axis=1) == [0, 1, 2]).all()
    assert (series != np.roll(series, 1, axis=0)).any(axis=1).all()
    assert (permutations(3, 8) != series).any()
    steps = 64 * every + 10
    actions = np.random.default_rng(0).integers(3, size=steps)
    meant = [series[(t // every) % 64][a] for t, a in enumerate(actions)]
    draws = jnp.full((steps, 1), 0.3)

    def played(environment, actions):
        def step(state, inputs):
            state, reply = environment.step(state, *inputs)
            return state, (environment.observe(state), reply)

        first = environment.reset(jax.random.key(0))
        return jax.jit(lambda: jax.lax.scan(step, first, (jnp.asarray(actions), draws))[1])()

    jax.tree.map(np.testing.assert_array_equal, played(environment, actions), played(plain, meant))
