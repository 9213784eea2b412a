"""An algorithm that plays its own batches learns exactly what it would from others'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actors.environments import catch
from actors.environments.device import make_catch
from actors.on_device import make_players
from agents.algorithm import make_algorithm
from agents.networks import make_network
from agents.playing import playing
from configs.load import load
from scripts.settings import make_settings
from tests.small import small_parts

T, B = 20, 4
CATCH = make_catch()
NETWORK = make_network("shallow", catch.ACTIONS, CATCH.observation_shape, CATCH.observation_dtype)
KEEP = ("meta.keep_bootstrapped=true", "meta.bootstrap_steps=2")


def _algorithms(name, *overrides):
    """The plain algorithm, the one that plays, and what it plays with."""
    settings = make_settings(load(f"catch/{name}", overrides))
    plain = make_algorithm(small_parts(settings, NETWORK), settings)
    players = make_players(CATCH, NETWORK, T, B)
    return plain, playing(plain, *players), players


def _assert_close(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected
    )


@pytest.fixture(scope="module")
def unrolled():
    """Environments, a trajectory of theirs, and its episodes."""
    reset, unroll = make_players(CATCH, NETWORK, 100, B)
    params = NETWORK.init(jax.random.key(1))
    first = reset(jax.random.key(2))
    return params, first, *jax.jit(unroll)(params, first, jax.random.key(3))


@pytest.mark.ci
@pytest.mark.parametrize(("name", "overrides"), [("impala", ()), ("bmg", KEEP)])
def test_it_is_the_plain_algorithm_on_what_it_has_played(name, overrides):
    plain, own, (_, unroll) = _algorithms(name, *overrides)
    state = own.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(7), own.online)
    new, metrics = jax.jit(lambda state: own.step(state, keys, None))(state)
    batches, environment, reward, episodes = [], state.inner.environment, 0.0, 0.0
    for key in keys:  # all by the parameters before the step
        params = state.inner.inner.inner.params
        environment, batch, ended = jax.jit(unroll)(params, environment, key)
        batches.append(batch)
        reward += float(jnp.sum(batch.reward * batch.valid))
        episodes += float(ended.ended)
    online = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    expected, told = jax.jit(lambda s, x: plain.step(s, x, None))(state.inner.inner, online)
    _assert_close(new.inner.inner, expected)
    _assert_close(new.inner.environment, environment)
    tally = new.inner.tally
    assert float(tally["updates"]) == int(new.updates) == plain.online
    assert float(tally["reward"]) == pytest.approx(reward)
    assert float(tally["episodes"]) == episodes
    np.testing.assert_allclose(
        tally["loss/total"], plain.online * told["loss/total"], rtol=1e-4, atol=1e-6
    )
    if name == "bmg":
        np.testing.assert_allclose(metrics["meta/loss"], told["meta/loss"], rtol=1e-3)
        assert float(tally["meta/discount"]) == pytest.approx(
            plain.online * float(told["meta/discount"])
        )
        assert float(jnp.abs(metrics["meta/gradient/discount"])) > 0


def test_players_play_by_the_rules(unrolled):
    """Against a NumPy board, step by step on the same actions; the balls are the players' own."""
    _, _, last, trajectory, _ = unrolled
    board = np.asarray(trajectory.observation).reshape(101, B, catch.ROWS, catch.COLUMNS)
    paddle, row = np.full(B, 2), np.zeros(B, int)
    column = board[0, :, 0].argmax(axis=-1)
    for t in range(100):
        for b in range(B):
            expected = np.zeros((catch.ROWS, catch.COLUMNS), np.uint8)
            expected[row[b], column[b]] = expected[-1, paddle[b]] = 255
            np.testing.assert_array_equal(board[t, b], expected)
            is_reset = row[b] == catch.ROWS - 1
            assert trajectory.valid[t, b] == (not is_reset)
            if is_reset:
                row[b], paddle[b] = 0, 2
                column[b] = board[t + 1, b, 0].argmax()
                reward = 0.0
            else:
                row[b] += 1
                paddle[b] = np.clip(paddle[b] + trajectory.action[t, b] - 1, 0, catch.COLUMNS - 1)
                ends = row[b] == catch.ROWS - 1
                reward = 0.0 if not ends else 1.0 if paddle[b] == column[b] else -1.0
                assert trajectory.discount[t, b] == 1.0 - ends
            assert trajectory.reward[t, b] == reward
    np.testing.assert_array_equal(last.state.ball_row, row)
    assert len({*board[:, :, 0].argmax(axis=-1).ravel().tolist()}) == catch.COLUMNS


def test_episodes_are_summed_as_a_score_table_counts_them(unrolled):
    _, first, last, trajectory, episodes = unrolled
    ends = np.asarray(trajectory.discount) == 0.0
    assert float(episodes.ended) == ends.sum() == B * 10
    assert float(episodes.returns) == np.asarray(trajectory.reward)[ends].sum()
    assert float(episodes.steps) == 9 * ends.sum()
    np.testing.assert_array_equal(first.episode_length, 0)
    np.testing.assert_array_equal(last.episode_length, 0)  # 100 steps are ten whole episodes


def test_the_sampled_policy_is_the_one_that_is_told(unrolled):
    params, _, _, trajectory, _ = unrolled
    logits = NETWORK.apply(params, trajectory.observation[:-1]).logits
    np.testing.assert_allclose(trajectory.behaviour_logits, logits, rtol=1e-5, atol=1e-6)
    counts = np.bincount(np.asarray(trajectory.action).ravel(), minlength=3) / (100 * B)
    expected = np.asarray(jax.nn.softmax(logits)).mean(axis=(0, 1))
    np.testing.assert_allclose(counts, expected, atol=0.08)  # 400 draws: 3.4 standard errors


def test_a_target_from_a_replay_is_refused():
    with pytest.raises(ValueError, match="no replay"):
        _algorithms("bmg", "meta.bootstrap_steps=2")
