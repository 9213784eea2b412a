"""The bootstrapped meta-gradient against finite differences, and its identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import outer_loss
from agents.matching import Weights
from agents.meta_gradient import bootstrap_target, bootstrapped_meta_gradient
from agents.networks import Heads, make_network
from agents.objectives import OBJECTIVES
from agents.settings import OptimizerSettings
from agents.trajectory import learner_view
from agents.update import InnerState
from tests.small import (
    OPTIMIZERS,
    OUTER,
    MetaProblem,
    double,
    experience,
    random_batch,
    row,
)

MATCHING_NAMES = ("l2", "kl", "reverse_kl", "value", "kl_value")
STEPS = ((1, 1), (1, 4), (3, 1), (3, 4))  # K and L


def _batches(count, seed=0, **shape):
    """[count, T, B, ...], in the precision of the test."""
    drawn = experience(*(random_batch(seed + i, **shape) for i in range(count))).online
    return double(drawn) if jax.config.jax_enable_x64 else jax.tree.map(jnp.asarray, drawn)


def _split(batches, inner_steps):
    first = jax.tree.map(lambda x: x[:inner_steps], batches)
    return first, jax.tree.map(lambda x: x[inner_steps:], batches)


def check_against_finite_differences(problem, inner_steps, bootstrap_steps):
    inner, further = _split(_batches(inner_steps + bootstrap_steps), inner_steps)
    state, meta_params = problem.state(row(_batches(1, seed=9), 0)), problem.meta_params()
    gradients, output = jax.jit(problem.meta_gradient)(meta_params, state, inner, further)

    @jax.jit
    def loss(meta_params):  # the target is held fixed
        final = problem.after(meta_params, state, inner)
        return problem.match(output.target.state, final, further)

    np.testing.assert_allclose(loss(meta_params), output.loss, rtol=1e-9)
    for name, value in meta_params.items():
        for index in np.ndindex(value.shape):
            # So small that no unit crosses zero on the way, where a ReLU's slope jumps.
            h = 3e-6
            up = loss({**meta_params, name: value.at[index].add(h)})
            down = loss({**meta_params, name: value.at[index].add(-h)})
            expected = float(up - down) / (2 * h)
            assert expected != 0.0, name
            np.testing.assert_allclose(
                gradients[name][index], expected, rtol=1e-5, err_msg=f"{name}{index}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("matching", MATCHING_NAMES)
@pytest.mark.parametrize(("inner_steps", "bootstrap_steps"), STEPS)
def test_finite_differences_of_every_combination(
    x64, optimizer, matching, inner_steps, bootstrap_steps
):
    problem = MetaProblem(optimizer=OPTIMIZERS[optimizer], matching=matching, kl_cost=0.5)
    check_against_finite_differences(problem, inner_steps, bootstrap_steps)


@pytest.mark.parametrize("matching", MATCHING_NAMES)
def test_finite_differences_of_every_matching_function(x64, matching):
    check_against_finite_differences(MetaProblem(matching=matching, kl_cost=0.5), 3, 4)


@pytest.mark.parametrize(
    ("optimizer", "inner_steps", "bootstrap_steps"),
    [("sgd", 1, 4), ("sgd", 3, 1), ("rmsprop", 1, 1), ("adam", 1, 1), ("adam", 3, 4)],
)
def test_finite_differences_of_every_optimizer(x64, optimizer, inner_steps, bootstrap_steps):
    problem = MetaProblem(optimizer=OPTIMIZERS[optimizer])
    check_against_finite_differences(problem, inner_steps, bootstrap_steps)


def test_finite_differences_with_a_plain_gradient_step_as_target(x64):
    problem = MetaProblem(target_optimizer="sgd", target_learning_rate=0.1)
    check_against_finite_differences(problem, 1, 4)


def test_finite_differences_within_a_trust_region_of_a_mean_loss(x64):
    """The target's last step has the learner's rate and clipping without its second moments."""
    problem = MetaProblem(max_kl=0.3, loss="mean", target_optimizer="sgd")
    check_against_finite_differences(problem, 3, 3)


@pytest.mark.parametrize("algorithm", ["stacx", "mg"])
def test_finite_differences_of_plain_meta_gradients(x64, algorithm):
    """Whatever else the settings say; the target is a step of size 1 on the outer loss."""
    problem = MetaProblem(algorithm=algorithm, matching="kl", kl_cost=0.5)
    check_against_finite_differences(problem, 1, 1)


def test_finite_differences_of_every_head(x64):
    problem = MetaProblem(heads=Heads(auxiliary=2, auxiliary_layers=1, outer_value=True))
    check_against_finite_differences(problem, 3, 2)


@functools.cache
def _atari_batch(dtype):
    """Random pixels and numbers in the shapes of Atari, as an actor sends them."""
    rng = np.random.default_rng(0)
    steps, envs, actions = 5, 2, 6
    sent = random_batch(0, steps, envs)._replace(
        observation=rng.integers(256, size=(steps + 4, envs, 84, 84), dtype=np.uint8),
        action=rng.integers(actions, size=(steps, envs)).astype(np.int32),
        behaviour_logits=rng.normal(size=(steps, envs, actions)).astype(np.float32),
    )
    seen = learner_view(jax.tree.map(jnp.asarray, sent), True, 1.0)
    # The network takes floating-point pixels as they are.
    pixels = seen.observation.astype(dtype) / 255
    return jax.tree.map(
        lambda x: x.astype(dtype) if x.dtype == np.float32 else x,
        seen._replace(observation=pixels),
    )


def _meta_gradients(dtype, alpha):
    """mu = half the squared distance and one SGD step of alpha; and the plain one, in two ways.

    The plain one needs no target: it is the derivative of the updated parameters, times the
    semi-gradient of the outer loss there, by reverse and by forward mode.
    """
    network = make_network("shallow", 6, (84, 84, 4), np.float32)
    problem = MetaProblem(
        network,
        matching="l2",
        target_optimizer="sgd",
        target_learning_rate=alpha,
        optimizer=OptimizerSettings("rmsprop", 1e-3, epsilon=1e-2, max_gradient_norm=40.0),
    )
    batch = _atari_batch(dtype)
    inputs = jax.tree.map(lambda x: x[None], batch)
    meta_params = jax.tree.map(lambda x: x.astype(dtype), problem.meta_params())
    state = problem.state(batch)

    # One program for both: rounding differs between programs, and these derivatives are small
    # differences of large terms.
    @jax.jit
    def both(meta_params):
        gradients, output = problem.meta_gradient(meta_params, state, inputs, inputs)
        outputs, pull_back = jax.vjp(
            lambda params: network.apply(params, batch.observation), output.state.params
        )
        make_targets, loss = outer_loss.make_plain(OBJECTIVES["actor_critic"], 0.0, None)
        targets = make_targets(outputs, batch, OUTER)
        cotangent, _ = jax.grad(loss, has_aux=True)(outputs, targets, batch, OUTER)
        (outer_gradient,) = jax.lax.stop_gradient(pull_back(cotangent))

        def first_order(meta_params):
            moved = problem.update(state, batch, meta_params)[0].params
            products = jax.tree.map(lambda a, b: jnp.sum(a * b), moved, outer_gradient)
            return sum(jax.tree.leaves(products))

        return gradients, jax.grad(first_order)(meta_params), jax.jacfwd(first_order)(meta_params)

    return both(meta_params)


@pytest.mark.ci
def test_identity_on_the_atari_network_in_double_precision(x64):
    alpha = 0.1
    gradients, plain, forward = _meta_gradients(np.float64, alpha)
    for name, gradient in gradients.items():
        assert gradient != 0.0
        np.testing.assert_allclose(gradient, alpha * plain[name], rtol=1e-10, err_msg=name)
        np.testing.assert_allclose(gradient, alpha * forward[name], rtol=1e-10, err_msg=name)


@pytest.mark.slow
def test_identity_on_the_atari_network_in_single_precision():
    alpha = 1.0
    gradients, plain, _ = _meta_gradients(np.float32, alpha)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, alpha * plain[name], rtol=1e-5, err_msg=name)


def test_with_nothing_to_correct_there_is_no_gradient():
    """A target that stands where the learner stands, by every matching function."""
    for matching in MATCHING_NAMES:
        problem = MetaProblem(matching=matching)
        here = bootstrapped_meta_gradient(
            problem.update,
            bootstrap_target(problem.update, lambda initial, state, batch: state),
            problem.match,
        )
        inputs = _batches(1)
        gradients, output = jax.jit(here)(problem.meta_params(), problem.state(), inputs, inputs)
        assert abs(float(output.loss)) < 1e-6
        for name, gradient in gradients.items():
            assert abs(float(gradient)) < 1e-6, (matching, name)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
@pytest.mark.parametrize("matching", ["l2", "kl_value"])
def test_no_nan_where_every_gradient_is_zero(optimizer, matching):
    """First update, second moments of zero, no valid step: losses, gradients and norms are zero."""
    rule = OptimizerSettings(optimizer, 1e-2, epsilon=1e-3, max_gradient_norm=1.0)
    problem = MetaProblem(optimizer=rule, matching=matching, kl_cost=1.0)
    inputs = jax.tree.map(jnp.zeros_like, _batches(2))
    gradients, output = jax.jit(problem.meta_gradient)(
        problem.meta_params(), problem.state(), inputs, inputs
    )
    for leaf in jax.tree.leaves((gradients, output)):
        assert np.isfinite(leaf).all()
    assert all(float(g) == 0.0 for g in jax.tree.leaves(gradients))


def test_the_target_is_data():
    """Its updates are not differentiated: no derivative with respect to what only it has used."""
    problem = MetaProblem()
    inner, further = _split(_batches(3), 1)
    state, meta_params = problem.state(), problem.meta_params()

    def loss_of_further_rewards(rewards):
        _, output = problem.meta_gradient(
            meta_params, state, inner, further._replace(reward=rewards)
        )
        return output.loss

    slopes = jax.jit(jax.grad(loss_of_further_rewards))(further.reward)
    np.testing.assert_array_equal(slopes, 0.0)


def test_where_the_learner_may_go_on():
    """The state after K, the bootstrapped one after K + L - 1 and the target are what they say."""
    problem = MetaProblem(kl_cost=0.5)
    inner, further = _split(_batches(5), 2)
    state, meta_params = problem.state(), problem.meta_params()
    _, output = jax.jit(problem.meta_gradient)(meta_params, state, inner, further)
    after = jax.jit(problem.after)
    final = after(meta_params, state, inner)
    bootstrapped = after(meta_params, final, jax.tree.map(lambda x: x[:-1], further))
    target = jax.jit(problem.last_update)(state, bootstrapped, row(further, -1))
    for ours, expected in (
        (output.state, final),
        (output.target.bootstrapped, bootstrapped),
        (output.target.state, target),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, expected
        )
    assert output.aux["loss/total"].shape == (2,)


def test_vmap_and_scan_equal_one_at_a_time():
    problem = MetaProblem(matching="kl")
    state, meta_params = problem.state(), problem.meta_params()
    seeds = [_batches(3, seed=10 * s) for s in range(3)]

    @jax.jit
    def gradient(data):
        inner, further = _split(data, 1)
        return problem.meta_gradient(meta_params, state, inner, further)[0]

    one_by_one = [gradient(data) for data in seeds]
    together = jax.tree.map(lambda *x: jnp.stack(x), *seeds)
    mapped = jax.vmap(gradient)(together)
    _, scanned = jax.lax.scan(lambda carry, data: (carry, gradient(data)), 0, together)
    for name in meta_params:
        expected = [g[name] for g in one_by_one]
        np.testing.assert_allclose(mapped[name], expected, rtol=2e-4, atol=1e-7)
        np.testing.assert_allclose(scanned[name], expected, rtol=2e-4, atol=1e-7)


def test_it_serves_other_than_actor_critics(x64):
    """A quadratic by hand: x' = x - w (x - data), one inner and one bootstrap step.

    x1 = x - w (x - d1); target x1 - a x1 for the plain objective x^2 / 2; mu = (target - x1)^2 / 2.
    d mu / d w = (x1 - target) dx1/dw = a x1 * -(x - d1).
    """

    def update(state, data, w):
        params = state.params - w["rate"] * (state.params - data)
        return InnerState(params, ()), {"x": params}

    a, x, d1, w = 0.1, 2.0, 0.5, 0.3
    target = bootstrap_target(
        update, lambda initial, state, data: InnerState(state.params * (1 - a), ())
    )
    meta_gradient = bootstrapped_meta_gradient(
        update, target, lambda goal, state, inputs: Weights().l2 * (goal.params - state.params) ** 2
    )
    state = InnerState(jnp.asarray(x), ())
    gradients, output = meta_gradient(
        {"rate": jnp.asarray(w)}, state, jnp.asarray([d1]), jnp.asarray([0.0])
    )
    x1 = x - w * (x - d1)
    np.testing.assert_allclose(output.state.params, x1, rtol=1e-12)
    np.testing.assert_allclose(gradients["rate"], a * x1 * -(x - d1), rtol=1e-12)


def test_meta_parameters_may_be_where_it_starts(x64):
    """By hand: x0 = w, x1 = x0 - a (x0 - d), target x1 - b x1, mu = (target - x1)^2 / 2.

    d mu / d w = (x1 - target) dx1/dw = b x1 (1 - a). The state that is given does not matter.
    """
    a, b, w, d = 0.3, 0.1, 2.0, 0.5

    def last_update(initial, state, data):
        assert initial == w
        return state * (1 - b)

    meta_gradient = bootstrapped_meta_gradient(
        lambda x, data, meta_params: (x - a * (x - data), ()),
        bootstrap_target(lambda x, data, meta_params: (x, ()), last_update),
        lambda target, x, inputs: 0.5 * (target - x) ** 2,
        start=lambda meta_params, state: meta_params + 0.0 * state,
    )
    gradient, output = meta_gradient(w, 9.0, jnp.asarray([d]), jnp.asarray([0.0]))
    x1 = w - a * (w - d)
    np.testing.assert_allclose(output.state, x1, rtol=1e-12)
    np.testing.assert_allclose(gradient, b * x1 * (1 - a), rtol=1e-12)
