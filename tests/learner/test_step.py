"""The jitted step: compiled once, donated, the same on several devices, safe from NaN."""

import math

import jax
import numpy as np
import pytest

from learner.replay import Replay
from tests.small import (
    OPTIMIZERS,
    MetaProblem,
    experience,
    random_batch,
    small_learner,
)


def _run(learner, state, steps, batch_size=4):
    state = learner.place_state(state)
    for i in range(steps):
        batch = learner.place_batch(experience(random_batch(i, batch=batch_size)))
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
    following, _ = learner.step(state, learner.place_batch(experience(random_batch())))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.inner.params))
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(snapshot))
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(
            jax.tree.leaves(before), jax.tree.leaves(following.inner.params), strict=True
        )
    )


def test_four_devices_equal_one():
    results = []
    for devices in (jax.devices()[:1], jax.devices()[:4]):
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
        state, metrics = learner.step(state, learner.place_batch(experience(zero)))
    assert bool(metrics["finite"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_non_finite_batch_changes_nothing():
    learner, state = small_learner()
    before = jax.device_get(state)
    bad = random_batch()
    bad.reward[0, 0] = np.nan
    bad.valid[0, 0] = True
    state, metrics = learner.step(learner.place_state(state), learner.place_batch(experience(bad)))
    assert not bool(metrics["finite"])
    assert int(state.updates) == 0
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))


def test_tells_how_far_the_parameters_moved():
    learner, state = small_learner()
    before = jax.device_get(state.inner.params)
    state, metrics = _run(learner, state, 1)
    after = jax.device_get(state.inner.params)
    pairs = list(zip(*map(jax.tree.leaves, (before, after)), strict=True))
    moved = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs))
    assert moved > 0.0
    np.testing.assert_allclose(metrics["loss/update_norm"], moved, rtol=1e-4)
    relative = moved / np.sqrt(sum(np.sum(a**2) for a, _ in pairs))
    np.testing.assert_allclose(metrics["loss/relative_update_norm"], relative, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_update_whose_result_is_not_finite_changes_nothing(name):
    """The loss and the gradient are those of the parameters before, and finite."""
    learner, state = small_learner(optimizer=OPTIMIZERS[name]._replace(learning_rate=math.inf))
    before, batch = jax.device_get(state), experience(random_batch())
    batch.online.reward[:] = 1e6
    state, metrics = learner.step(learner.place_state(state), learner.place_batch(batch))
    assert np.isfinite([metrics["loss/total"], metrics["loss/gradient_norm"]]).all()
    assert not bool(metrics["finite"])
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))


def _meta_run(learner, state, steps, online=1, further=1, batch_size=4):
    state = learner.place_state(state)
    for i in range(steps):
        drawn = [random_batch(10 * i + j, batch=batch_size) for j in range(online + further)]
        batch = learner.place_batch(experience(*drawn[:online], bootstrap=drawn[online:]))
        state, metrics = learner.step(state, batch)
    return state, metrics


def test_meta_learning_compiles_once_and_describes_itself():
    problem = MetaProblem()
    learner, state = problem.learner()
    state, metrics = _meta_run(learner, state, 19)
    logits = jax.device_get(state.meta.params)
    state, metrics = _meta_run(learner, state, 1)
    assert learner.step._cache_size() == 1
    assert int(state.updates) == 20
    for name in problem.learned:
        assert metrics[f"meta/{name}"] != pytest.approx(problem.learned[name].start, abs=1e-6)
        assert 0.0 < metrics[f"meta/{name}"] < problem.learned[name].upper
        assert metrics[f"meta/gradient/{name}"] > 0.0
        step = np.abs(state.meta.params[name] - logits[name])
        np.testing.assert_allclose(metrics[f"meta/step/{name}"], step, rtol=1e-3, atol=1e-7)
    assert {"meta/loss", "meta/target_distance", "meta/gradient_norm", "loss/total"} <= set(metrics)


def test_the_first_updates_leave_no_trace_in_the_meta_optimiser():
    """Two updates of warm-up: then the meta-step is Adam's first, the learning rate."""
    learner, state = MetaProblem().learner(warmup_updates=2)
    first = jax.device_get(state.meta)
    state, metrics = _meta_run(learner, state, 2)
    jax.tree.map(np.testing.assert_array_equal, first, jax.device_get(state.meta))
    assert metrics["meta/step/discount"] == 0.0
    assert metrics["meta/gradient/discount"] > 0.0
    state, metrics = _meta_run(learner, state, 1)
    assert metrics["meta/step/discount"] == pytest.approx(1e-2, rel=1e-2)


def test_meta_learning_on_four_devices_equals_one():
    results = []
    for devices in (jax.devices()[:1], jax.devices()[:4]):
        learner, state = MetaProblem(matching="kl").learner(devices)
        results.append(_meta_run(learner, state, 3, batch_size=8))
    (one, metrics_one), (four, metrics_four) = results
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(metrics_one["meta/loss"], metrics_four["meta/loss"], rtol=1e-3)


def test_updates_count_what_the_learner_keeps():
    """K updates, or K + L - 1 of them when it goes on from the bootstrapped parameters."""
    problem = MetaProblem()
    drawn = [random_batch(j) for j in range(4)]
    learner, state = problem.learner(inner_steps=2)
    first, meta_params = jax.device_get((state.inner, state.meta.params))
    after = jax.jit(problem.after)
    state, _ = learner.step(
        learner.place_state(state),
        learner.place_batch(experience(*drawn[:2], bootstrap=drawn[2:])),
    )
    assert int(state.updates) == 2
    expected = after(meta_params, first, experience(*drawn[:2]).online)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.inner, expected
    )
    learner, state = problem.learner(inner_steps=2, keep_bootstrapped=True)
    state, _ = learner.step(learner.place_state(state), learner.place_batch(experience(*drawn[:4])))
    assert int(state.updates) == 4
    expected = after(meta_params, first, experience(*drawn).online)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.inner, expected
    )


def test_a_meta_gradient_that_is_not_finite_changes_nothing():
    learner, state = MetaProblem().learner()
    before = jax.device_get(state)
    bad = random_batch(1)
    bad.reward[:] = np.nan  # in the bootstrap batch only: the update itself is good
    state, metrics = learner.step(
        learner.place_state(state),
        learner.place_batch(experience(random_batch(), bootstrap=[bad])),
    )
    assert not bool(metrics["finite"])
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))


def test_the_cosine_of_the_plain_meta_gradient_with_itself_is_one():
    learner, state = MetaProblem(algorithm="stacx").learner()
    cosine = learner.diagnose(state, experience(random_batch()))["meta/cosine"]
    assert float(cosine) == pytest.approx(1.0, abs=1e-5)


def test_memory_grows_by_states_not_by_activations():
    problem = MetaProblem()
    meta_params, state = problem.meta_params(), problem.state()

    def temporary_bytes(inner_steps):
        inputs = experience(*(random_batch(i, steps=50, batch=64) for i in range(inner_steps)))
        compiled = (
            jax.jit(problem.meta_gradient)
            .lower(meta_params, state, inputs.online, row_range(inputs.online, 1))
            .compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    def row_range(batches, stop):
        return jax.tree.map(lambda x: x[:stop], batches)

    one = sum(x.nbytes for x in jax.tree.leaves(state))
    one += sum(x.nbytes for x in random_batch(0, steps=50, batch=64))
    assert temporary_bytes(12) - temporary_bytes(4) < 3 * 8 * one


def test_replay_keeps_the_newest_within_its_bytes():
    batches = [random_batch(i, batch=3) for i in range(4)]
    size = sum(x[:, 0].nbytes for x in batches[0])
    replay = Replay(5 * size + size // 2, (0,))
    for index, batch in enumerate(batches[:3]):
        replay.add(batch)
        assert len(replay) == min(3 * (index + 1), 5)
        assert replay.bytes == len(replay) * size <= 5 * size + size // 2
    known = [x[:, i].tobytes() for x in (b.reward for b in batches[:3]) for i in range(3)][-5:]
    sample = replay.sample(200)
    assert sample.reward.shape == (5, 200)
    assert sample.observation.shape == (6, 200, 5)
    drawn = {sample.reward[:, i].tobytes() for i in range(200)}
    assert drawn == set(known)  # all of the newest, nothing of the others
    for i in range(20):  # the fields of an unroll stay together
        source = known.index(sample.reward[:, i].tobytes()) + 4
        batch = batches[source // 3]
        np.testing.assert_array_equal(sample.action[:, i], batch.action[:, source % 3])
        np.testing.assert_array_equal(sample.observation[:, i], batch.observation[:, source % 3])


def test_replay_too_small_for_one_unroll_keeps_one():
    replay = Replay(1, (0,))
    replay.add(random_batch(batch=2))
    assert len(replay) == 1
    assert replay.sample(3).action.shape == (5, 3)
