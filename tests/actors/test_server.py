"""Unrolls: alignment, auto-reset, frames that travel once, episode statistics."""

import jax
import jax.numpy as jnp
import numpy as np

from actors.environments.atari import Atari
from actors.seeding import environment_seeds
from actors.server import UnrollServer
from agents.networks import make_network
from agents.trajectory import assert_shapes, stack_frames
from tests.actors.specs import ATARI, CATCH, gymnasium_spec, server_spec


def _server(spec, serial=0):
    server = UnrollServer(spec, serial)
    environment = server._environment
    params = make_network(
        spec.network,
        environment.num_actions,
        environment.observation_shape,
        environment.observation_dtype,
    ).init(jax.random.key(0))
    return server, params


def test_row_t_is_the_step_from_observation_t_to_t_plus_1():
    """The counting environment's rewards and observations name their own step and episode."""
    spec = server_spec(gymnasium_spec("Counting"), num_envs=3, unroll_length=8)
    server, params = _server(spec)
    previous = None
    scores = {}
    for version in range(4):
        unroll = server.unroll(params, version)
        trajectory = unroll.trajectory
        assert_shapes(trajectory)
        if previous is not None:  # unrolls share the observation between them
            np.testing.assert_array_equal(trajectory.observation[0], previous)
        previous = trajectory.observation[-1]
        finished = []
        for t, b in np.ndindex(8, 3):
            _, episode, step = trajectory.observation[t, b]
            _, next_episode, next_step = trajectory.observation[t + 1, b]
            if not trajectory.valid[t, b]:
                assert (next_episode, next_step) == (episode + 1, 0)
                assert trajectory.reward[t, b] == 0
                continue
            assert (next_episode, next_step) == (episode, step + 1)
            action = trajectory.action[t, b]
            assert trajectory.reward[t, b] == 100 * episode + 10 * step + action
            scores[b, episode] = scores.get((b, episode), 0.0) + trajectory.reward[t, b]
            terminated = episode % 2 == 0 and next_step == 3
            truncated = episode % 2 == 1 and next_step == 2
            assert trajectory.discount[t, b] == (0.0 if terminated else 1.0)
            if terminated or truncated:
                finished.append((scores[b, episode], next_step))
        assert list(unroll.episodes) == finished
        assert unroll.steps == unroll.frames == trajectory.valid.sum()
        assert unroll.version == version


def test_learner_rebuilds_the_stacks_that_the_environment_made():
    """Real Pong with short episodes: stacks from single frames equal ale-py's own, bit for bit."""
    environment_spec = ATARI._replace(game="pong", max_episode_frames=40)
    spec = server_spec(environment_spec, num_envs=4, unroll_length=15)
    server, params = _server(spec)
    twin = Atari(environment_spec, 4, 1)
    own = [twin.reset(environment_seeds(spec.seed, 0, 4))]
    for _ in range(3):
        trajectory = server.unroll(params, 0).trajectory
        assert trajectory.observation.shape == (15 + 4, 4, 84, 84)
        own.extend(twin.step(trajectory.action[t]).observation for t in range(15))
        stacks = stack_frames(jnp.asarray(trajectory.observation), jnp.asarray(trajectory.valid))
        assert not trajectory.valid.all()
        expected = np.stack(own).transpose(0, 1, 3, 4, 2)
        np.testing.assert_array_equal(stacks, expected)
        own = own[-1:]


def test_behaviour_logits_are_those_of_the_policy_that_acted():
    server, params = _server(server_spec(CATCH))
    trajectory = server.unroll(params, 0).trajectory
    network = make_network("shallow", 3, (50,), np.uint8)
    expected = network.apply(params, jnp.asarray(trajectory.observation[:-1])).logits
    np.testing.assert_allclose(trajectory.behaviour_logits, expected, atol=1e-6)


def test_a_server_repeats_itself_bit_for_bit():
    spec = server_spec(ATARI._replace(sticky_actions=0.25))
    results = []
    for _ in range(2):
        server, params = _server(spec)
        results.append([server.unroll(params, v).trajectory for v in range(3)])
        server.close()
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_frames_count_the_skipped_ones():
    unroll = (lambda server, params: server.unroll(params, 0))(*_server(server_spec(ATARI)))
    assert unroll.steps == 4 * 7
    assert unroll.frames == 4 * unroll.steps
