"""Matching functions against NumPy, and what each of them does not look at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.matching import MATCHING, Point, Weights
from agents.networks import NetworkOutput
from tests.small import random_batch

WEIGHTS = Weights(l2=0.7, policy=1.3, value=0.4)


def _point(seed):
    rng = np.random.default_rng(seed)
    params = {"w": jnp.asarray(rng.normal(size=(3, 2))), "b": jnp.asarray(rng.normal(size=2))}
    outputs = NetworkOutput(
        jnp.asarray(rng.normal(size=(6, 4, 3))), jnp.asarray(rng.normal(size=(6, 4)))
    )
    return Point(params, outputs)


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _reference(name, target, learner, valid):
    """Sums over steps and actions, written out."""
    if name == "l2":
        return 0.7 * sum(
            float(
                (np.asarray(target.params[k]) - np.asarray(learner.params[k])).ravel() ** 2
                @ np.ones(target.params[k].size)
            )
            for k in ("w", "b")
        )
    p, q = (_softmax(np.asarray(point.outputs.logits)) for point in (target, learner))
    if name == "reverse_kl":
        p, q = q, p
    divergence = difference = count = 0.0
    for t, b in np.ndindex(*valid.shape):
        if valid[t, b]:
            count += 1
            divergence += sum(p[t, b, a] * np.log(p[t, b, a] / q[t, b, a]) for a in range(3))
            difference += float(target.outputs.value[t, b] - learner.outputs.value[t, b]) ** 2
    terms = {"kl": (1.3, 0), "reverse_kl": (1.3, 0), "value": (0, 0.4), "kl_value": (1.3, 0.4)}
    return (terms[name][0] * divergence + terms[name][1] * difference) / count


@pytest.mark.parametrize("name", ["l2", "kl", "reverse_kl", "value", "kl_value"])
def test_equals_the_formula(x64, name):
    target, learner, batch = _point(0), _point(1), random_batch()
    assert not batch.valid.all()
    ours = MATCHING[name](target, learner, batch, WEIGHTS)
    np.testing.assert_allclose(ours, _reference(name, target, learner, batch.valid), rtol=1e-12)


def test_the_published_direction_is_target_first(x64):
    """KL(target || learner) is infinite where the learner excludes what the target does."""
    target, learner = _point(0), _point(1)
    sure = learner.outputs.logits.at[..., 0].set(-1000.0)
    learner = learner._replace(outputs=learner.outputs._replace(logits=sure))
    batch = random_batch()
    forward = MATCHING["kl"](target, learner, batch, WEIGHTS)
    reverse = MATCHING["reverse_kl"](target, learner, batch, WEIGHTS)
    assert float(forward) > 100 > float(reverse)


@pytest.mark.parametrize("name", MATCHING)
def test_zero_at_equality_with_zero_gradient(x64, name):
    point, batch = _point(0), random_batch()
    value, slope = jax.value_and_grad(lambda p: MATCHING[name](point, p, batch, WEIGHTS))(point)
    assert abs(float(value)) < 1e-12
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-12)
