"""Hyper-parameters that depend on recent rewards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.hyperparameters import Learned
from agents.meta_network import add_reward, contextual, features, init_context
from agents.networks import make_dense_network

REWARDS = np.random.default_rng(0).normal(0.05, 0.2, size=37)


def _context(rewards, length=10):
    context = init_context(length)
    for reward in rewards:
        context = add_reward(context, jnp.asarray(reward, context.mean.dtype))
    return context


def test_statistics_are_those_of_all_rewards(x64):
    context = _context(REWARDS)
    np.testing.assert_array_equal(context.recent, REWARDS[-10:])
    np.testing.assert_allclose(context.mean, REWARDS.mean(), rtol=1e-12)
    np.testing.assert_allclose(context.variance, REWARDS.var(), rtol=1e-12)
    expected = np.tanh((REWARDS[-10:] - REWARDS.mean()) / REWARDS.std())
    np.testing.assert_allclose(features(context, normalised=True), expected, rtol=1e-12)
    np.testing.assert_array_equal(features(context, normalised=False), REWARDS[-10:])


def test_places_without_a_reward_are_zero(x64):
    seen = features(_context(REWARDS[:3]), normalised=True)
    expected = np.tanh((REWARDS[:3] - REWARDS[:3].mean()) / REWARDS[:3].std())
    np.testing.assert_array_equal(seen[:7], np.zeros(7))
    np.testing.assert_allclose(seen[7:], expected, rtol=1e-12)
    assert np.isfinite(features(init_context(10), normalised=True)).all()
    assert np.isfinite(features(_context([0.3]), normalised=True)).all()


def test_the_memory_is_long_but_not_endless():
    """In single precision a count stops at 2^24, and a sum of squares would go on growing."""
    rewards = 0.19 + 0.43 * jax.random.normal(jax.random.key(0), (3_000_000,))
    context, _ = jax.lax.scan(lambda c, r: (add_reward(c, r), None), init_context(3), rewards)
    assert context.seen == 1e6
    assert float(context.mean) == pytest.approx(0.19, abs=0.01)
    assert float(jnp.sqrt(context.variance)) == pytest.approx(0.43, abs=0.01)


def _contextual():
    network = make_dense_network(10, (32,), 2, zero_output=True)
    learned = {"entropy_cost": Learned(0.2, 0.8), "policy_cost": Learned(1.0, 1.5)}
    tuned = contextual(network, {"discount": 0.9}, learned, normalised=True)
    return tuned.values, tuned.init(jax.random.key(0))


def test_values_start_where_they_are_told_to_whatever_the_context():
    values, weights = _contextual()
    for rewards in (REWARDS, -REWARDS, []):
        hyper = values(weights, _context(rewards))
        assert hyper["discount"] == 0.9
        assert float(hyper["entropy_cost"]) == pytest.approx(0.2, rel=1e-6)
        assert float(hyper["policy_cost"]) == pytest.approx(1.0, rel=1e-6)


def test_other_weights_tell_contexts_apart_and_stay_in_range():
    values, weights = _contextual()
    keys = iter(jax.random.split(jax.random.key(1), 10))
    weights = jax.tree.map(lambda w: 3.0 * jax.random.normal(next(keys), w.shape), weights)
    seen = [values(weights, _context(r)) for r in (REWARDS, -REWARDS)]
    assert abs(seen[0]["entropy_cost"] - seen[1]["entropy_cost"]) > 1e-3
    for hyper in seen:
        assert 0.0 <= hyper["entropy_cost"] <= 0.8
        assert 0.0 <= hyper["policy_cost"] <= 1.5
