"""What `bmg bench` says that a step of the learner could reach at the most."""

import jax
import pytest

from configs.load import load
from scripts import build
from scripts.bench import learner


def test_operations_of_a_step_are_those_of_its_products():
    """Each layer's forwards, and two as large on the way back, of which the first needs one."""
    config = load("catch/impala")
    agent = build.build_agent(config, build.probe_environment(config.env, 0))
    experience = learner._experience(config, agent)
    params = agent.initial_state.inner.params
    weights = [x.size for x in jax.tree.leaves(params) if x.ndim == 2]
    observations = config.learner.batch_size * (config.learner.unroll_length + 1)
    assert 50 * 128 in weights  # the first one: Catch has 10 x 5 pixels
    products = 2 * observations * (3 * sum(weights) - 50 * 128)
    # Everything else, V-trace and the optimiser, is little beside them.
    assert learner._operations(agent, experience) == pytest.approx(products, rel=0.05)
