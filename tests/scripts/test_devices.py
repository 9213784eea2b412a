"""Whole agents on 1, 2 and 8 virtual devices: the same results up to the order of summation."""

import jax
import numpy as np
import pytest

from configs.load import load
from learner.checkpoint import Checkpoints
from learner.experience import prepare
from learner.loop import Progress
from learner.replay import Replay
from scripts import build


def _agent(algorithm, devices):
    overrides = [f"learner.devices={devices}", "actors.runtime=in_process"]
    config = load(f"catch/{algorithm}", overrides)
    return config, build.build_agent(config, build.probe_environment(config.env, config.seed))


def _experiences(config, probe, params, steps):
    """What a learner that never learns would be sent."""
    source = build.build_source(config, probe, 0)
    composition = build.composition(config)
    replay = Replay(config.replay.max_bytes, (0,)) if composition.needs_replay else None
    source.publish(params, 0)
    batches = [source.next_batch(1.0) for _ in range(steps)]
    source.close()
    return [prepare(batch, composition, replay) for batch in batches]


def _learn(agent, state, experiences):
    state = agent.learner.place_state(jax.device_get(state))  # which it donates
    for experience in experiences:
        state, metrics = agent.learner.step(state, agent.learner.place_batch(experience))
    return state, metrics


@pytest.mark.ci
@pytest.mark.parametrize(
    "algorithm", ["impala", pytest.param("stacx", marks=pytest.mark.slow), "bmg"]
)
def test_devices_share_a_batch_and_agree(algorithm, tmp_path):
    """Four steps; checkpoints of one number of devices go on with another."""
    config, one = _agent(algorithm, 1)
    experiences = _experiences(config, one.probe, one.initial_state.inner.params, 4)
    expected, expected_metrics = _learn(one, one.initial_state, experiences)
    for devices in (2, 8):
        _, several = _agent(algorithm, devices)
        state, metrics = _learn(several, several.initial_state, experiences)
        leaf = jax.tree.leaves(state.inner.params)[0]
        assert len(leaf.sharding.device_set) == devices
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
        for name, value in expected_metrics.items():
            np.testing.assert_allclose(value, metrics[name], rtol=2e-2, atol=1e-5, err_msg=name)
    checkpoints = Checkpoints(tmp_path / "checkpoints", 1)
    checkpoints.save(state, Progress(updates=4))
    restored, _ = checkpoints.restore(build.build_agent(config, one.probe).initial_state)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(a, b)
    after, _ = _learn(one, restored, experiences[:1])
    assert int(after.updates) == int(expected.updates) + int(expected.updates) // 4
