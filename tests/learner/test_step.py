"""The jitted step: compiled once, donated, the same on several devices, safe from NaN."""

import jax
import numpy as np

from tests.learner.small import random_batch, small_learner


def _run(learner, state, steps, batch_size=4):
    state = learner.place_state(state)
    for i in range(steps):
        batch = learner.place_batch(random_batch(i, batch=batch_size))
        state, metrics = learner.step(state, batch)
    return state, metrics


def test_compiles_once():
    learner, state = small_learner()
    _run(learner, state, 20)
    assert learner.step._cache_size() == 1


def test_state_is_donated_and_the_snapshot_survives():
    learner, state = small_learner()
    state = learner.place_state(state)
    snapshot = learner.snapshot(state.inner.params)
    before = jax.device_get(snapshot)
    following, _ = learner.step(state, learner.place_batch(random_batch()))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.inner.params))
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(snapshot))
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(
            jax.tree.leaves(before), jax.tree.leaves(following.inner.params), strict=True
        )
    )


def test_four_devices_equal_one():
    assert len(jax.devices()) == 4
    results = []
    for devices in (jax.devices()[:1], jax.devices()):
        learner, state = small_learner(devices)
        results.append(_run(learner, state, 10, batch_size=8))
    (one, metrics_one), (four, metrics_four) = results
    leaf = jax.tree.leaves(four.inner.params)[0]
    assert len(leaf.sharding.device_set) == 4
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics_one["loss/total"], metrics_four["loss/total"], rtol=1e-4)


def test_no_nan_from_empty_batches():
    """200 updates on a batch of zeros, in which no step is valid."""
    learner, state = small_learner()
    zero = jax.tree.map(np.zeros_like, random_batch())
    state = learner.place_state(state)
    for _ in range(200):
        state, metrics = learner.step(state, learner.place_batch(zero))
    assert bool(metrics["finite"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_non_finite_batch_changes_nothing():
    learner, state = small_learner()
    before = jax.device_get(state)
    bad = random_batch()
    bad.reward[0, 0] = np.nan
    bad.valid[0, 0] = True
    state, metrics = learner.step(learner.place_state(state), learner.place_batch(bad))
    assert not bool(metrics["finite"])
    assert int(state.updates) == 0
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))
