"""Catch against a NumPy board, on the host and inside a scan."""

import jax
import jax.numpy as jnp
import numpy as np

from actors.environments import catch
from actors.environments.catch import Catch
from tests.actors.specs import CATCH


def test_host_view_plays_by_the_rules():
    environment = Catch(CATCH, 6, 1)
    board = environment.reset(np.arange(6)).reshape(6, 10, 5)
    random = np.random.default_rng(0)
    episodes = 0
    for _ in range(60):
        action = random.integers(3, size=6, dtype=np.int32)
        step = environment.step(action)
        following = step.observation.reshape(6, 10, 5)
        for b in range(6):
            balls = np.argwhere(board[b, :-1])
            if len(balls) == 0:  # it was down: this step is the auto-reset
                assert not step.valid[b]
                assert step.reward[b] == 0
                assert np.argwhere(following[b])[0][0] == 0
                assert following[b, 9, 2] == 255
                continue
            (row, column) = balls[0]
            paddle = np.clip(np.argwhere(board[b, 9])[0][0] + action[b] - 1, 0, 4)
            expected = np.zeros((10, 5), np.uint8)
            expected[row + 1, column] = expected[9, paddle] = 255
            np.testing.assert_array_equal(following[b], expected)
            down = row + 1 == 9
            assert step.ended[b] == down
            assert step.discount[b] == (0.0 if down else 1.0)
            assert step.reward[b] == (0.0 if not down else 1.0 if column == paddle else -1.0)
            if down:
                assert step.frames[b] == 9
                episodes += 1
        board = following
    assert episodes == 6 * 6


def test_scan_gives_the_host_view():
    """The pure functions under lax.scan: same seed, same actions, same trajectory."""
    environment = Catch(CATCH, 1, 1)
    environment.reset(np.asarray([5]))
    actions = np.random.default_rng(1).integers(3, size=40)
    host = [environment.step(np.asarray([a], np.int32)) for a in actions]
    _, scanned = jax.lax.scan(catch.step, catch.reset(jax.random.key(5)), jnp.asarray(actions))
    np.testing.assert_array_equal(scanned.observation, [s.observation[0] for s in host])
    np.testing.assert_array_equal(scanned.reward, [s.reward[0] for s in host])
    np.testing.assert_array_equal(scanned.valid, [s.valid[0] for s in host])
