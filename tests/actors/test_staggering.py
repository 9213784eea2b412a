"""Environments that begin at different moments, on the real emulator and on Gymnasium's."""

import jax
import numpy as np
import pytest

from actors.environments.suites import make_environment
from actors.environments.vector import EnvironmentRefused
from actors.server import UnrollServer
from actors.staggering import stagger
from agents.networks import make_network
from tests.actors.specs import ATARI, CATCH, server_spec

_CARTPOLE = CATCH._replace(suite="gymnasium", game="CartPole-v1")


def _staggered(spec, steps, seed=0, envs=8):
    environment = make_environment(spec, envs, 1)
    observation = environment.reset(np.arange(envs, dtype=np.int32))
    observation, begun = stagger(environment, observation.copy(), steps, seed, 3)
    observation = observation.copy()
    step = environment.step(np.zeros(envs, np.int32))
    environment.close()
    return observation, begun, step


@pytest.mark.parametrize(("spec", "steps"), [(ATARI, 60), (_CARTPOLE, 8)])
def test_each_has_played_a_number_of_steps_of_its_own(spec, steps):
    """No random play is over after so few, so frames tell where a game is."""
    random = np.random.default_rng((0, 3, 1))
    wanted = random.integers(steps + 1, size=8)
    assert len(set(wanted)) > 4
    observation, begun, step = _staggered(spec, steps)
    np.testing.assert_array_equal(step.frames, (wanted + 1) * spec.frame_skip)
    np.testing.assert_array_equal(begun, wanted > 0)
    assert step.valid.all()
    same, _, _ = _staggered(spec, steps)
    np.testing.assert_array_equal(observation, same)
    other, _, _ = _staggered(spec, steps, seed=1)
    assert (observation != other).any()
    assert all((observation[0] != row).any() for row in observation[1:])


def test_only_whole_games_of_the_policy_count():
    """In CartPole a game's score is its length."""
    spec = server_spec(_CARTPOLE._replace(stagger_frames=10), num_envs=8, unroll_length=300)
    unroll = UnrollServer(spec, 0).unroll(
        make_network("shallow", 2, (4,), np.float32).init(jax.random.key(0)), 0
    )
    assert len(unroll.episodes) > 20
    assert all(score == frames for score, frames in unroll.episodes)


def test_what_cannot_begin_anew_is_refused():
    with pytest.raises(EnvironmentRefused, match=r"env\.stagger_frames"):
        UnrollServer(server_spec(CATCH._replace(stagger_frames=10)), 0)
