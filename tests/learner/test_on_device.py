"""Many seeds in one program: each is a run of its own, and goes on exactly where it stopped."""

import jax
import numpy as np
import pytest

from configs.load import load
from learner.checkpoint import Checkpoints
from learner.loop import Events, LearningDiverged, LoopSettings, Progress, run
from learner.on_device import OnDevice
from scripts.check import check
from scripts.on_device import build_algorithm, build_environment, build_seeds_learner

# Each agent's own shape of a cycle.
SHORT = {
    "actor_critic": ("learner.unroll_length=8",),
    "mg": ("learner.unroll_length=8", "meta.inner_steps=2"),
    "bmg": ("learner.unroll_length=8", "meta.inner_steps=2", "meta.bootstrap_steps=2"),
    "bmg_no_context": ("learner.unroll_length=8", "meta.inner_steps=2", "meta.bootstrap_steps=2"),
    "q_lambda": (),
    "q_lambda_bmg": ("meta.bootstrap_steps=9",),
    "q_lambda_bmg_no_context": ("meta.bootstrap_steps=9",),
}


def _learner(*overrides, name="bmg"):
    return _built(
        f"two_colours/{name}",
        *("env.swap_period=100", "learner.devices=1", *SHORT[name], *overrides),
    )


def _catch(*overrides, name="bmg"):
    """The learner of an agent that plays before each step."""
    return _built(
        f"catch/{name}",
        *("actors.runtime=on_device", "learner.batch_size=4", "learner.devices=1"),
        *("meta.keep_bootstrapped=true", *overrides),
    )


def _built(*given):
    config = load(given[0], given[1:])
    check(config)
    algorithm = build_algorithm(config, build_environment(config.env))
    return build_seeds_learner(algorithm, config.learner, config.all_seeds)


def _after(learner, steps, state=None):
    """Host arrays of the state, and the metrics of each step."""
    state = learner.place(learner.initial_state() if state is None else state)
    metrics = []
    for _ in range(steps):
        state, seen = learner.step(state)
        metrics.append({k: v[: len(learner.seeds)] for k, v in jax.device_get(seen).items()})
    return learner.collect(state), metrics


def _assert_same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def _assert_close(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), actual, expected
    )


@pytest.fixture(scope="module")
def three():
    """Three seeds, two steps, with the learner that made them."""
    learner = _learner("seed=5", "seeds=3")
    return learner, *_after(learner, 2)


@pytest.mark.ci
def test_a_seed_does_not_depend_on_the_others_or_on_devices(three):
    """As one of two, or of three that two devices share, it gives the same numbers bit for bit.

    Alone as well, but for rounding: a map over one seed is compiled without its loop, and on a CPU
    with AVX2 but without AVX-512 a last bit has come out differently.
    """
    learner, state, metrics = three
    assert learner.seeds == (5, 6, 7)
    two, _ = _after(_learner("seed=6", "seeds=2"), 2)
    _assert_same(two, jax.tree.map(lambda x: x[1:3], state))
    alone, alone_metrics = _after(_learner("seed=6", "seeds=1"), 2)
    _assert_close(alone, jax.tree.map(lambda x: x[1:2], state))
    for one, several in zip(alone_metrics, metrics, strict=True):
        _assert_close(one, {k: v[1:2] for k, v in several.items()})
    shared = _learner("seed=5", "seeds=3", "learner.devices=2")  # one seed is computed twice
    _assert_same(_after(shared, 2)[0], state)


def test_seeds_differ(three):
    _, state, metrics = three
    assert len(set(metrics[-1]["reward"].tolist())) == 3
    weights = jax.tree.leaves(state.inner.inner.params)[0]
    assert not np.array_equal(weights[0], weights[1])
    costs = metrics[-1]["meta/entropy_cost"] / metrics[-1]["updates"]
    assert (costs != costs[0]).any()
    assert (np.abs(costs - 0.3) < 0.1).all()


def test_going_on_from_host_arrays_is_going_on(three):
    learner, state, _ = three
    once, _ = _after(learner, 1)
    _assert_same(_after(learner, 1, once)[0], state)


@pytest.mark.parametrize(
    "name", ["actor_critic", "mg", "q_lambda", "q_lambda_bmg", "q_lambda_bmg_no_context"]
)
def test_every_agent_runs_and_counts_its_steps(name):
    learner = _learner("seeds=2", name=name)
    first = learner.initial_state()
    state, metrics = _after(learner, 1)
    length = 1 if name.startswith("q_lambda") else 8
    np.testing.assert_array_equal(metrics[0]["updates"], learner.updates)
    assert learner.steps == learner.updates * length
    # The actor-critic played its first unroll before its first update.
    played = learner.steps + (8 if length == 8 else 0)
    np.testing.assert_array_equal(state.inner.environment.clock, played % 200)
    for before, after in zip(
        jax.tree.leaves(first.inner.inner.params),
        jax.tree.leaves(state.inner.inner.params),
        strict=True,
    ):
        assert not np.array_equal(before, after)
    of_q = name.startswith("q_lambda_bmg")
    names = ["entropy_cost"] if name == "mg" else ["epsilon"] if of_q else []
    learned = [f"meta/{x}" for x in names]
    of_meta = {*learned, *(f"meta/{kind}/{x}" for x in names for kind in ("gradient", "step"))}
    if names:
        of_meta |= {"meta/loss", "meta/gradient_norm", "meta/target_distance"}
    if of_q:
        of_meta |= {"meta/greedy_changes"}
    assert {k for k in metrics[0] if k.startswith("meta/")} == of_meta
    if learned:
        moved = jax.tree.map(
            lambda a, b: not np.array_equal(a, b), first.meta.params, state.meta.params
        )
        assert moved["epsilon"] if name.endswith("no_context") else moved["output"]["w"]
        assert np.isfinite(metrics[0]["meta/loss"]).all()
        assert (metrics[0]["meta/loss"] != 0).all()
        assert (metrics[0][f"meta/gradient/{names[0]}"] > 0).all()
    else:
        assert "meta/loss" not in metrics[0]


def _run(learner, state, progress, total, points, lines=None, saved=None):
    return run(
        OnDevice(learner, points.append),
        state,
        progress,
        LoopSettings(total, 0.0, 0.0),
        lambda: False,
        Events(
            [].append if lines is None else lines.append,
            lambda state, progress, _: ([] if saved is None else saved).append(
                (state, progress.frames)
            ),
        ),
    )


def test_the_loop_counts_each_seeds_frames_and_averages_over_seeds(three):
    learner, state, metrics = three
    progress, points, lines, saved = Progress(), [], [], []
    initial = learner.initial_state()
    last = _run(learner, initial, progress, learner.steps + 1, points, lines, saved)
    _assert_same(last, state)
    # Only the state that a step was made from; its frames are those of its own moment.
    assert [frames for _, frames in saved] == [learner.steps]
    _assert_same(saved[0][0], _after(learner, 1)[0])
    assert progress.frames == progress.env_steps == 2 * learner.steps
    assert [point.frames for point in points] == [learner.steps, 2 * learner.steps]
    for point, seen in zip(points, metrics, strict=True):
        np.testing.assert_array_equal(point.reward, seen["reward"])
        cost = point.hyperparameters["meta/entropy_cost"]
        np.testing.assert_allclose(cost, seen["meta/entropy_cost"] / learner.updates, rtol=1e-6)
    assert lines[-1]["frames"] == 2 * learner.steps
    assert lines[-1]["seeds"] == 3
    expected = points[-1].reward.mean() / learner.steps
    assert lines[-1]["reward_per_step"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["bmg_no_context", "q_lambda_bmg_no_context"])
def test_a_state_without_context_can_be_saved(tmp_path, name):
    first = _learner("seeds=2", name=name).initial_state()
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(first, Progress())
    _assert_same(checkpoints.restore(first)[0], first)


def test_a_seed_that_diverges_is_named(three):
    learner = three[0]
    state = learner.initial_state()
    broken = jax.tree.map(np.array, state.inner.inner.params)
    broken["policy"]["w"][1] = np.nan
    inner = state.inner._replace(inner=state.inner.inner._replace(params=broken))
    with pytest.raises(LearningDiverged, match="seed 6 was not finite any more"):
        _run(learner, state._replace(inner=inner), Progress(), 10_000, [])


def test_parameters_that_are_finite_and_no_good_are_not_given_away(three):
    """Steps so long that the numbers stay finite and the next step's do not."""
    learner = three[0]
    state = learner.initial_state()
    huge = jax.tree.map(lambda x: np.full_like(x, 1e30), state.inner.inner.params)
    inner = state.inner._replace(inner=state.inner.inner._replace(params=huge))
    saved = []
    with pytest.raises(LearningDiverged, match="seed 5, 6, 7"):
        _run(learner, state._replace(inner=inner), Progress(), 10_000, [], saved=saved)
    assert saved == []


def test_greedy_changes_are_kept_beside_the_learned_epsilon():
    """In the points and in the log, as a share: not divided by the updates, as sums are."""
    learner = _learner("seeds=2", name="q_lambda_bmg")
    points, lines = [], []
    _run(learner, learner.initial_state(), Progress(), 2 * learner.steps, points, lines)
    changes = np.asarray([point.greedy_changes for point in points])
    assert changes.shape == (2, 2)
    assert ((changes > 0.0) & (changes < 1.0)).all()
    assert len({round(share, 6) for share in changes.ravel().tolist()}) == 4
    assert lines[-1]["meta/greedy_changes"] == pytest.approx(changes[-1].mean(), rel=1e-6)
    assert list(points[0].hyperparameters) == ["meta/epsilon"]


@pytest.mark.ci
def test_an_agent_that_plays_before_its_steps(tmp_path):
    """Seeds of their own, episodes in points and lines, and a checkpoint to go on from exactly."""
    learner = _catch("seed=5", "seeds=2")
    assert learner.steps == learner.updates * 4 * 20
    points, lines, progress = [], [], Progress()
    state = _run(learner, learner.initial_state(), progress, 2 * learner.steps, points, lines)
    weights = jax.tree.leaves(state.inner.inner.inner.params)[0]
    assert not np.array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(state.inner.inner.updates, progress.updates)
    returns = np.asarray([point.episode_return for point in points])
    assert returns.shape == (2, 2)
    assert ((returns >= -1.0) & (returns < 0.5)).all()
    assert set(points[0].hyperparameters) == {
        f"meta/{name}" for name in load("catch/bmg").meta.learned
    }
    assert progress.episodes == pytest.approx(2 * 2 * learner.steps / 10, rel=0.1)
    assert lines[-1]["episodes"] == progress.episodes
    assert lines[-1]["episode_length"] == 9.0
    assert lines[-1]["episode_return"] == pytest.approx(returns[-1].mean(), abs=0.05)
    # Each seed is a run of its own; what was saved goes on as if nothing had happened.
    halfway, _ = _after(learner, 1)
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(halfway, Progress())
    restored = checkpoints.restore(learner.initial_state())[0]
    _assert_same(_after(learner, 1, restored)[0], _after(learner, 2)[0])
    _assert_same(_after(learner, 2)[0], state)
