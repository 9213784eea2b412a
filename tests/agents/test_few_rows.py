"""Products of a few rows, held against finite differences and against the ordinary product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from agents import few_rows


def _inputs(rows):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (rows, 5), (5, 7), (rows, 7)
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("rows", [1, 2, 17, few_rows.MOST_ROWS, few_rows.MOST_ROWS + 1])
def test_it_is_the_product(x64, rows):
    x, w, _ = _inputs(rows)
    np.testing.assert_allclose(few_rows.product(x, w), x @ w, rtol=1e-12)


def test_derivatives_of_three_orders_are_finite_differences(x64):
    x, w, _ = _inputs(4)
    f = lambda x, w: jnp.sum(jnp.tanh(few_rows.product(jnp.tanh(x), w)))  # noqa: E731
    check_grads(f, (x, w), order=3, modes=["rev"], rtol=1e-6, atol=1e-6)


def test_a_way_back_through_updates_is_that_of_the_ordinary_product(x64):
    """Two steps of gradient descent, differentiated, vectorised over starts."""
    x, w, goal = _inputs(6)

    def after_two_steps(product, rate, w):
        for _ in range(2):
            loss = lambda w: jnp.sum(jnp.square(jnp.tanh(product(x, w)) - goal))  # noqa: E731
            w = w - rate * jax.grad(loss)(w)
        return jnp.sum(jnp.sin(product(x, w)))

    def gradients(product):
        gradient = jax.grad(lambda *a: after_two_steps(product, *a), argnums=(0, 1))
        return jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(0.1, jnp.stack([w, 2 * w, -w]))

    ours, ordinary = gradients(few_rows.product), gradients(jnp.matmul)
    assert np.all(np.asarray(ordinary[0]) != 0.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), ours, ordinary)
