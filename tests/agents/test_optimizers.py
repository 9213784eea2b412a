"""Inner optimisers: equal to their formulas, and differentiable where second moments are zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents.optimizers import (
    clip_by_norm,
    gradient_norm,
    gradient_step,
    make_meta_optimizer,
    make_optimizer,
    own_step,
)
from agents.settings import OptimizerSettings
from agents.update import InnerState

RULES = {
    "sgd": ("sgd", {}),
    "rmsprop": ("rmsprop", {}),
    "rmsprop, epsilon outside": ("rmsprop", {"epsilon_placement": "outside"}),
    "adam": ("adam", {}),
}
GRADIENTS = {
    "all zero": {"w": jnp.zeros(3), "b": jnp.zeros(())},
    "one zero entry": {"w": jnp.asarray([0.0, 1.0, -2.0]), "b": jnp.asarray(0.5)},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", GRADIENTS)
@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_updates_can_be_differentiated_at_zero(rule, case, max_norm):
    """d(update)/d(scale of the gradient) through three updates is finite, exactly at zero too."""
    name, options = RULES[rule]
    optimizer = make_optimizer(OptimizerSettings(name, 0.1, max_gradient_norm=max_norm, **options))
    gradients = GRADIENTS[case]

    def final(scale):
        params, state = gradients, optimizer.init(gradients)
        for _ in range(3):
            updates, state = optimizer.update(
                jax.tree.map(lambda g: g * scale, gradients), state, params
            )
            params = optax.apply_updates(params, updates)
        return sum(jnp.sum(x) for x in jax.tree.leaves(params))

    assert np.isfinite(jax.grad(final)(1.0))
    assert np.isfinite(jax.grad(final)(0.0))


@pytest.mark.parametrize(
    ("gradient_decay", "adam_beta1"), [(0.9, 0.9), (0.9, 0.0), (0.0, 0.9)], ids=str
)
def test_adam_takes_gradients_that_are_averaged_before_it_by_it_or_both(gradient_decay, adam_beta1):
    """In NumPy: the average before it is also what its second moment is of."""
    optimizer = make_optimizer(
        OptimizerSettings(
            "adam", 0.1, epsilon=1e-4, gradient_decay=gradient_decay, adam_beta1=adam_beta1
        )
    )
    gradients = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    state = optimizer.init(jnp.zeros(3))
    average = first = second = np.zeros(3)
    for n, gradient in enumerate(gradients, 1):
        step, state = optimizer.update(jnp.asarray(gradient), state)
        average = gradient_decay * average + (1 - gradient_decay) * gradient
        first = adam_beta1 * first + (1 - adam_beta1) * average
        second = 0.999 * second + 0.001 * average**2
        scale = np.sqrt(second / (1 - 0.999**n)) + 1e-4
        np.testing.assert_allclose(step, -0.1 * first / (1 - adam_beta1**n) / scale, rtol=1e-3)


OPTIMIZERS = {
    "sgd": {"name": "sgd"},
    "rmsprop": {"name": "rmsprop", "decay": 0.9},
    "adam": {"name": "adam"},
    "adam without momentum": {"name": "adam", "adam_beta1": 0.0},
    "adam of averages": {"name": "adam", "gradient_decay": 0.8},
    "averages": {"name": "sgd", "gradient_decay": 0.8},
}


@pytest.mark.parametrize("case", OPTIMIZERS)
@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_a_targets_step_has_no_memory_of_earlier_directions(case, max_norm):
    """In NumPy: the last gradient and second moments alone, after a past that went elsewhere."""
    settings = OptimizerSettings(
        learning_rate=optax.linear_schedule(0.1, 0.0, 10),
        epsilon=1e-4,
        max_gradient_norm=max_norm,
        **OPTIMIZERS[case],
    )
    optimizer = make_optimizer(settings)
    params = jnp.zeros(2)
    state = optimizer.init(params)
    past = [np.asarray(g, np.float32) for g in ([3.0, -1.0], [4.0, -2.0], [2.0, -1.5])]
    newest = np.asarray([-0.5, 0.25], np.float32)
    average = second = np.zeros(2)
    decay = {"rmsprop": 0.9, "adam": 0.999}.get(settings.name, 0.0)
    for gradient in past:
        _, state = optimizer.update(jnp.asarray(gradient), state, params)
        if max_norm:
            gradient = gradient / max(np.linalg.norm(gradient), 1.0)
        average = settings.gradient_decay * average + (1 - settings.gradient_decay) * gradient
        second = decay * second + (1 - decay) * average**2
    second = decay * second + (1 - decay) * newest**2
    scale = {
        "sgd": 1.0,
        "rmsprop": np.sqrt(second + 1e-4),
        "adam": np.sqrt(second / (1 - 0.999**4)) + 1e-4,
    }[settings.name]
    learner = InnerState(params, state)
    for step, expected in (
        (own_step(settings), newest / scale),
        (gradient_step(settings), newest),
    ):
        moved, _ = step.optimizer.update(jnp.asarray(newest), step.state(learner), params)
        np.testing.assert_allclose(moved, -0.07 * expected, rtol=1e-4)


def test_the_unsafe_forms_are_really_unsafe():
    """Why this file exists: optax's own clipping is NaN where ours is not."""
    zero = GRADIENTS["all zero"]

    def through(transform):
        def total(scale):
            updates, _ = transform.update(
                jax.tree.map(lambda g: g * scale, zero), transform.init(zero)
            )
            return sum(jnp.sum(x) for x in jax.tree.leaves(updates))

        return jax.grad(total)(1.0)

    assert np.isnan(through(optax.clip_by_global_norm(1.0)))
    assert np.isfinite(through(clip_by_norm(1.0)))


@pytest.mark.parametrize("placement", ["inside", "outside"])
def test_rmsprop_is_its_formula(x64, placement):
    """No momentum, second moment from zero; inside the root is the published form. By hand."""
    optimizer = make_optimizer(
        OptimizerSettings("rmsprop", 0.01, decay=0.9, epsilon=0.1, epsilon_placement=placement)
    )
    params = {"w": jnp.asarray([1.0, -2.0])}
    state = optimizer.init(params)
    moment, expected = np.zeros(2), np.asarray([1.0, -2.0])
    for gradient in (np.asarray([0.5, -3.0]), np.asarray([1.5, 0.0])):
        moment = 0.9 * moment + 0.1 * gradient**2
        inside, outside = (0.1, 0.0) if placement == "inside" else (0.0, 0.1)
        expected = expected - 0.01 * gradient / (np.sqrt(moment + inside) + outside)
        updates, state = optimizer.update({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-8])
def test_meta_steps_do_not_depend_on_the_scale_of_what_is_compared(scale):
    """Gradients of a mean divergence are of 1e-7, of a summed loss of 1: the steps are the same."""
    optimizer = make_meta_optimizer(1e-3, epsilon=1e-12)
    gradient = jnp.asarray([3.0, -0.5, 0.0]) * scale
    step, _ = optimizer.update(gradient, optimizer.init(jnp.zeros(3)))
    np.testing.assert_allclose(step, [-1e-3, 1e-3, 0.0], rtol=1e-3)


def test_clipping(x64):
    gradients = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray(4.0)}
    np.testing.assert_allclose(gradient_norm(gradients), 5.0, rtol=1e-12)
    clipped, _ = clip_by_norm(2.5).update(gradients, optax.EmptyState())
    np.testing.assert_allclose(clipped["b"], 2.0, rtol=1e-12)
    same, _ = clip_by_norm(50.0).update(gradients, optax.EmptyState())
    np.testing.assert_array_equal(same["a"], gradients["a"])


def test_schedules_count_updates():
    optimizer = make_optimizer(OptimizerSettings("sgd", optax.linear_schedule(1.0, 0.0, 4)))
    state = optimizer.init(jnp.ones(()))
    steps = []
    for _ in range(5):
        update, state = optimizer.update(jnp.ones(()), state)
        steps.append(float(update))
    assert steps == [-1.0, -0.75, -0.5, -0.25, 0.0]
