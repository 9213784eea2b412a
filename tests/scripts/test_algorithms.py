"""What a configuration becomes: the target's last step, replayed schedules."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.algorithm import make_algorithm
from agents.optimizers import make_optimizer
from configs.load import ConfigError, dump, load, named_configs
from scripts import build
from scripts.check import check
from scripts.settings import make_settings
from tests.small import experience, random_batch, row, small_parts


def _built(name, *overrides):
    config = load(name, ["learner.max_gradient_norm=0", *overrides])
    settings = make_settings(config)
    algorithm = make_algorithm(small_parts(settings), settings)
    state = algorithm.init(jax.random.key(0))
    inputs = jax.tree.map(jnp.asarray, experience(random_batch(0)).online)
    if state.meta is not None:
        update = jax.jit(algorithm.meta.update)
        inner, _ = update(state.inner, row(inputs, 0), state.meta.params)
        state = state._replace(inner=inner)
    return config, algorithm, state, inputs


def _step(name, *overrides):
    """The target's step from a state, on the batch that made it."""
    config, algorithm, state, inputs = _built(name, *overrides)
    inner = state.inner
    target = jax.jit(algorithm.meta.target)(inner, inner, inputs, state.meta.params)
    return config, jax.tree.map(jnp.subtract, target.state.params, inner.params), inner


def _norm(tree):
    return float(jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree))))


def test_the_last_step_of_each_target():
    """stacx: the plain gradient; sgd: that times the learning rate; learner: preconditioned."""
    _, plain, state = _step("catch/stacx")
    config, sgd, _ = _step("catch/bmg", "meta.target_optimizer=sgd", "meta.bootstrap_steps=1")
    _, own, _ = _step("catch/bmg", "meta.bootstrap_steps=1")
    _, given, _ = _step(
        *("catch/bmg", "meta.target_optimizer=sgd", "meta.target_learning_rate=0.5"),
        "meta.bootstrap_steps=1",
    )
    rate, decay, epsilon = (
        config.learner.learning_rate,
        config.learner.decay,
        config.learner.epsilon,
    )
    moments = state.opt_state[0].nu
    for g, s, o, h, nu in zip(
        *map(jax.tree.leaves, (plain, sgd, own, given, moments)), strict=True
    ):
        np.testing.assert_allclose(s, rate * g, rtol=2e-2, atol=1e-6)
        np.testing.assert_allclose(h, 0.5 * g, rtol=1e-3, atol=1e-5)
        expected = rate * g / jnp.sqrt(decay * nu + (1 - decay) * g**2 + epsilon)
        np.testing.assert_allclose(o, expected, rtol=2e-2, atol=1e-6)
    assert _norm(plain) > 0.1


def test_a_plain_step_is_clipped_and_annealed_like_the_learners():
    _, clipped, _ = _step(
        *("catch/bmg", "meta.target_optimizer=sgd", "meta.bootstrap_steps=1"),
        *("learner.max_gradient_norm=0.5", "learner.learning_rate=0.1"),
    )
    assert _norm(clipped) == pytest.approx(0.05, rel=1e-3)
    frames = 2 * 32 * 20  # two updates in all, of which the state has made one
    _, annealed, _ = _step(
        *("catch/bmg", "meta.target_optimizer=sgd", "meta.bootstrap_steps=1"),
        *("learner.max_gradient_norm=0.5", "learner.learning_rate=0.1", f"total_frames={frames}"),
        "learner.learning_rate_schedule=linear",
    )
    assert _norm(annealed) == pytest.approx(0.025, rel=1e-3)


SELF_TUNED = [
    *("atari/bmg", "atari/stacx", "atari/quickstart", "catch/bmg", "catch/stacx"),
    *(name for name in named_configs() if name.startswith("ablations/")),
]


@pytest.mark.parametrize("name", SELF_TUNED)
def test_every_learned_value_moves_whatever_it_is_matched_by(name):
    """Adam's first step is the meta learning rate, for sums, means, nats and squares alike.

    So comparisons of matching functions, targets and algorithms compare no epsilons.
    """
    config, algorithm, state, inputs = _built(
        *(name, "agent.auxiliary_heads=0", "agent.network=shallow"),
        *("meta.bootstrap_steps=1", "replay.unrolls=0", "replay.max_kl=0", "meta.warmup_updates=0"),
    )
    after, metrics = jax.jit(algorithm.step)(state, inputs, None)
    for key, before in state.meta.params.items():
        assert metrics[f"meta/gradient/{key}"] > 0.0, key
        step = abs(float(after.meta.params[key] - before))
        assert step == pytest.approx(config.meta.learning_rate, rel=1e-2), key


@pytest.mark.parametrize("name", ["atari/impala", *SELF_TUNED])
def test_updates_are_of_a_size_that_learns(name):
    """A million parameters whose gradient is at the clipping: IMPALA's move by 0.1 to 0.2."""
    config = load(name)
    optimizer = make_optimizer(make_settings(config).optimizer)
    params = jnp.zeros(1_000_000)
    gradient = jnp.full(1_000_000, config.learner.max_gradient_norm / 1_000)
    state, step = optimizer.init(params), params
    for _ in range(100):
        step, state = optimizer.update(gradient, state, params)
    assert 0.05 < float(jnp.linalg.norm(step)) < 2.0


def test_the_learning_rate_falls_over_a_horizon_of_its_own():
    config = load(
        "catch/impala",
        [
            *("total_frames=6400", "learner.schedule_frames=64000", "learner.optimizer=sgd"),
            *("learner.learning_rate_schedule=linear", "learner.learning_rate=1.0"),
            "learner.max_gradient_norm=0",
        ],
    )
    optimizer = make_optimizer(make_settings(config).optimizer)
    state, steps = optimizer.init(jnp.ones(())), []
    for _ in range(10):  # of 640 frames each
        step, state = optimizer.update(jnp.ones(()), state)
        steps.append(float(step))
    np.testing.assert_allclose(steps, [-(1 - i / 100) for i in range(10)], rtol=1e-5)


def test_outer_values_do_not_follow_the_inner_ones_but_for_the_learning_rate():
    config = load("catch/bmg", ["agent.discount=0.3", "agent.learning_rate_scale=0.1"])
    outer = make_settings(config).outer
    assert outer["discount"] == 0.995
    assert outer["learning_rate_scale"] == 0.1


def _source(folder, lines, *overrides):
    folder.mkdir()
    (folder / "config.yaml").write_text(dump(load("catch/bmg", overrides)))
    (folder / "metrics.jsonl").write_text(lines)


def _line(updates, discount):
    keys = ("vtrace_lambda", "vtrace_leak", "policy_cost", "value_cost")
    values = {f"meta/{key}": 0.4 for key in keys} | {"meta/entropy_cost": 0.005}
    values |= {"frames": 640 * updates, "learner_updates": updates, "meta/discount": discount}
    return json.dumps(values) + "\n"


def test_a_replayed_schedule_begins_where_learning_began_and_is_paced_by_frames(tmp_path):
    nothing = '{"frames": 96000, "learner_updates": 150}\n'
    lines = _line(100, 0.8) + nothing + _line(200, 0.9) + '{"frames": 1280'
    _source(tmp_path / "run", lines, "agent.discount=0.5")
    config, algorithm, state, inputs = _built(
        *("catch/impala", f"hyperparameters_from={tmp_path / 'run'}"),
        "learner.batch_size=64",  # half as many updates for the same frames
    )
    assert algorithm.meta is None
    replayed = make_settings(config).replayed
    values = [float(replayed(jnp.asarray(u))["discount"]) for u in (0, 25, 50, 75, 1000)]
    np.testing.assert_allclose(values, [0.5, 0.65, 0.8, 0.85, 0.9], rtol=1e-5)
    at_100 = state._replace(updates=jnp.asarray(100))
    _, metrics = algorithm.step(at_100, inputs, None)
    assert float(metrics["meta/entropy_cost"]) == pytest.approx(0.005)


@pytest.mark.parametrize(
    "lines", ["", '{"frames"', '{"frames": 1920, "learner_updates": 3, "meta/discount": null}']
)
def test_a_run_that_has_logged_nothing_to_replay_is_refused(tmp_path, lines):
    _source(tmp_path / "run", lines)
    with pytest.raises(ConfigError, match="has learned no hyper-parameter, or not yet"):
        _built("catch/impala", f"hyperparameters_from={tmp_path / 'run'}")


def test_heads_must_agree(tmp_path):
    _source(tmp_path / "run", _line(1, 0.9))
    with pytest.raises(ConfigError, match="auxiliary_heads=2"):
        _built(
            "catch/impala", f"hyperparameters_from={tmp_path / 'run'}", "agent.auxiliary_heads=2"
        )


def test_a_network_for_images_says_that_it_acts_nowhere_on_vectors(caplog):
    probe = build.Probe(3, (50,), np.uint8, False)
    for network, told in (("deep", True), ("shallow_atari", True), ("dense", False)):
        config = load("catch/impala", [f"agent.network={network}"])
        check(config)
        caplog.clear()
        build.say_if_network_is_another(config.agent.network, probe, config.env.game)
        assert [network in m and "agent.network=dense" in m for m in caplog.messages] == [
            True
        ] * told
    with pytest.raises(
        ConfigError, match=r"agent.network=dense: \S+ is for two_colours and vector"
    ):
        check(load("atari/impala", ["agent.network=dense"]))
