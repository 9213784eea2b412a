"""The actor-critic loss against NumPy, and its seam."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import actor_critic
from agents.hyperparameters import HYPERPARAMETERS
from agents.networks import NetworkOutput
from agents.policies import POLICIES
from agents.trajectory import Trajectory
from agents.vtrace import vtrace

HYPER = {name: entry.default for name, entry in HYPERPARAMETERS.items()} | {
    "discount": 0.97,
    "vtrace_lambda": 0.9,
    "vtrace_leak": 0.5,
    "vtrace_leak_rho": 0.8,
    "vtrace_leak_c": 0.6,
    "policy_cost": 1.3,
    "value_cost": 0.4,
    "entropy_cost": 0.02,
}


def _case(seed=0, steps=5, batch=3, actions=4):
    rng = np.random.default_rng(seed)
    shape = (steps, batch)
    outputs = NetworkOutput(
        jnp.asarray(rng.normal(size=(steps + 1, batch, actions))),
        jnp.asarray(rng.normal(size=(steps + 1, batch))),
    )
    valid = rng.random(shape) > 0.25
    trajectory = Trajectory(
        jnp.zeros((steps + 1, batch, 2)),
        jnp.asarray(rng.integers(actions, size=shape)),
        jnp.asarray(rng.normal(size=shape)),
        jnp.asarray(np.where(rng.random(shape) < 0.2, 0.0, 1.0)),
        jnp.asarray(rng.normal(size=(*shape, actions))),
        jnp.asarray(valid),
    )
    return outputs, trajectory


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_loss_is_the_published_sum(x64):
    outputs, trajectory = _case()
    targets = actor_critic.make_targets(outputs, trajectory, HYPER)
    total, metrics = actor_critic.loss(outputs, targets, trajectory, HYPER)
    pi = _softmax(np.asarray(outputs.logits[:-1]))
    mu = _softmax(np.asarray(trajectory.behaviour_logits))
    policy = value = entropy = steps = 0.0
    log_ratio = np.zeros(trajectory.action.shape)
    for t, b in np.ndindex(*trajectory.action.shape):
        a = int(trajectory.action[t, b])
        log_ratio[t, b] = np.log(pi[t, b, a]) - np.log(mu[t, b, a])
        if trajectory.valid[t, b]:
            steps += 1
            policy -= float(targets.advantage[t, b]) * np.log(pi[t, b, a])
            value += 0.5 * float(targets.value[t, b] - outputs.value[t, b]) ** 2
            entropy -= float((pi[t, b] * np.log(pi[t, b])).sum())
    np.testing.assert_allclose(total, 1.3 * policy + 0.4 * value - 0.02 * entropy, rtol=1e-10)
    np.testing.assert_allclose(metrics["loss/entropy"], entropy / steps, rtol=1e-10)
    expected = vtrace(
        outputs.value,
        trajectory.reward,
        0.97 * trajectory.discount,
        jnp.asarray(log_ratio),
        trajectory.valid,
        lambda_=0.9,
        leak_rho=0.4,  # the common leak times its own
        leak_c=0.3,
    )
    np.testing.assert_allclose(targets.value, expected.value, rtol=1e-10)


def test_explained_variance(x64):
    outputs, trajectory = _case(3)
    targets = actor_critic.make_targets(outputs, trajectory, HYPER)
    _, metrics = actor_critic.loss(outputs, targets, trajectory, HYPER)
    there = np.asarray(trajectory.valid)
    target, value = np.asarray(targets.value)[there], np.asarray(outputs.value[:-1])[there]
    expected = 1.0 - np.var(target - value) / np.var(target)
    np.testing.assert_allclose(metrics["loss/explained_variance"], expected, rtol=1e-10)
    mask = jnp.ones((3, 2))
    flat = actor_critic.explained_variance(jnp.ones((3, 2)), jnp.zeros((3, 2)), mask)
    assert float(flat) == 0.0


def test_targets_are_data_for_the_loss(x64):
    """The gradient with respect to the values is that of the squared error alone."""
    outputs, trajectory = _case(1)
    targets = actor_critic.make_targets(outputs, trajectory, HYPER)
    gradient = jax.grad(lambda o: actor_critic.loss(o, targets, trajectory, HYPER)[0])(outputs)
    expected = 0.4 * (outputs.value[:-1] - targets.value) * trajectory.valid
    np.testing.assert_allclose(gradient.value[:-1], expected, rtol=1e-10)
    np.testing.assert_array_equal(gradient.value[-1], 0.0)


@pytest.mark.parametrize(
    "name", ["discount", "vtrace_lambda", "vtrace_leak", "vtrace_leak_rho", "vtrace_leak_c"]
)
def test_targets_can_be_differentiated_with_respect_to_hyperparameters(x64, name):
    """Against central differences, and not zero: no stray stop_gradient."""
    outputs, trajectory = _case(2)

    def total(x):
        targets = actor_critic.make_targets(outputs, trajectory, {**HYPER, name: x})
        return jnp.sum(targets.value**2) + jnp.sum(targets.advantage**2)

    x = HYPER[name]
    numeric = (total(x + 1e-6) - total(x - 1e-6)) / 2e-6
    assert abs(float(numeric)) > 1e-6
    np.testing.assert_allclose(jax.grad(total)(x), numeric, rtol=1e-6)


def test_policies():
    logits = jnp.log(jnp.asarray([[0.7, 0.2, 0.1]] * 20_000))
    key = jax.random.key(0)
    shares = np.bincount(POLICIES["sample"](key, logits), minlength=3) / 20_000
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.015)
    assert set(np.asarray(POLICIES["greedy"](key, logits))) == {0}
    shares = np.bincount(POLICIES["random"](key, logits), minlength=3) / 20_000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.015)


def test_one_step_targets_by_hand():
    value = jnp.asarray([[1.0], [2.0], [4.0]])
    trajectory = Trajectory(
        observation=jnp.zeros((3, 1, 1)),
        action=jnp.zeros((2, 1), jnp.int32),
        reward=jnp.asarray([[0.5], [-1.0]]),
        discount=jnp.asarray([[1.0], [0.0]]),
        behaviour_logits=jnp.zeros((2, 1, 2)),
        valid=jnp.asarray([[True], [True]]),
    )
    outputs = NetworkOutput(jnp.zeros((3, 1, 2)), value)
    targets = actor_critic.make_one_step_targets(outputs, trajectory, {"discount": 0.9})
    np.testing.assert_allclose(targets.value, [[0.5 + 0.9 * 2.0], [-1.0]], rtol=1e-6)
    np.testing.assert_allclose(targets.advantage, [[1.3], [-3.0]], rtol=1e-6)
    cut = trajectory._replace(valid=jnp.asarray([[True], [False]]))
    targets = actor_critic.make_one_step_targets(outputs, cut, {"discount": 0.9})
    np.testing.assert_allclose(targets.advantage, [[1.3], [0.0]], rtol=1e-6)


def test_an_averaged_loss_is_the_sum_over_valid_steps_divided_by_their_number(x64):
    outputs, trajectory = _case(3)[:2]
    targets = actor_critic.make_targets(outputs, trajectory, HYPER)
    total, _ = actor_critic.loss(outputs, targets, trajectory, HYPER)
    mean, metrics = actor_critic.reduced(actor_critic.loss, "mean")(
        outputs, targets, trajectory, HYPER
    )
    steps = int(np.sum(trajectory.valid))
    assert 0 < steps < trajectory.valid.size
    np.testing.assert_allclose(mean, total / steps, rtol=1e-12)
    np.testing.assert_allclose(metrics["loss/total"], mean, rtol=1e-12)
