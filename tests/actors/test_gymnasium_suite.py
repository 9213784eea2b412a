"""Any Gymnasium environment by id."""

import gymnasium
import jax
import numpy as np
import pytest

from actors.environments.gymnasium_suite import GymnasiumSuite, render
from actors.environments.vector import EnvironmentRefused
from actors.server import UnrollServer
from agents.networks import make_network
from tests.actors.specs import CATCH, gymnasium_spec, server_spec


def test_cartpole_ends_and_restarts():
    spec = CATCH._replace(suite="gymnasium", game="CartPole-v1")
    environment = GymnasiumSuite(spec, 2, 1)
    assert environment.num_actions == 2
    assert environment.observation_shape == (4,)
    assert environment.reset(np.asarray([1, 2])).dtype == np.float32
    ended = 0
    for _ in range(60):
        step = environment.step(np.zeros(2, np.int32))
        ended += int(step.ended.sum())
        assert (step.discount[step.ended] == 0.0).all()
    assert ended >= 8
    environment.close()


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("NoSuchThing-v0", "NoSuchThing"),
        ("Pendulum-v1", "not Discrete"),
        ("Blackjack-v1", "not a Discrete, or a Box"),
        ("tests.actors.environments_for_tests:Continuous-v0", "not Discrete"),
    ],
)
def test_what_cannot_be_played_is_refused(game, message):
    with pytest.raises(EnvironmentRefused, match=message):
        GymnasiumSuite(CATCH._replace(suite="gymnasium", game=game), 1, 1)


@pytest.mark.parametrize(("game", "states"), [("FrozenLake-v1", 16), ("Taxi-v4", 500)])
def test_numbers_of_states_are_one_hot(game, states):
    environment = GymnasiumSuite(CATCH._replace(suite="gymnasium", game=game), 3, 1)
    assert environment.observation_shape == (states,)
    known = gymnasium.make_vec(game, 3, vectorization_mode="sync")
    for ours, theirs in (
        (environment.reset(np.arange(3)), known.reset(seed=[0, 1, 2])[0]),
        (environment.step(np.zeros(3, np.int32)).observation, known.step(np.zeros(3, int))[0]),
    ):
        assert ours.dtype == np.float32
        assert ours.shape == (3, states)
        np.testing.assert_array_equal(ours.argmax(axis=1), theirs)
        np.testing.assert_array_equal(ours.sum(axis=1), 1.0)
    environment.close()
    known.close()


def test_render_replays_actions():
    pictures = list(render(gymnasium_spec("Counting"), 0, [0, 1, 2]))
    assert [int(p[0, 0, 0]) for p in pictures] == [0, 1, 2]


def test_images_are_played_with_convolutions():
    server = UnrollServer(server_spec(gymnasium_spec("Image"), num_envs=2), 0)
    network = make_network("shallow", 4, (20, 24, 3), np.uint8)
    trajectory = server.unroll(network.init(jax.random.key(0)), 0).trajectory
    assert trajectory.observation.shape == (8, 2, 20, 24, 3)
    assert trajectory.observation.dtype == np.uint8
    assert trajectory.behaviour_logits.shape == (7, 2, 4)


def test_an_environment_that_exits_has_raised_and_one_that_cannot_be_closed_has_been_played():
    environment = GymnasiumSuite(gymnasium_spec("Leaving"), 2, 1)
    environment.reset(np.asarray([1, 2]))
    environment.step(np.zeros(2, np.int32))
    with pytest.raises(RuntimeError, match=r"it called exit\(0\)"):
        environment.step(np.zeros(2, np.int32))
    environment.close()
