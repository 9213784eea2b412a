"""A product of a few rows with a matrix of weights, whose derivatives are fast on a CPU.

The grid world's agent learns from unrolls of 16 steps with weights of 256x256, so an update is six
products of 16 rows, and the way back through it some more. XLA's own derivatives of `x @ w` write a
gradient of the weights to memory only to read it again when they are stepped, and transpose the
weights where the way back needs them. Here the gradient is a sum of outer products, which XLA fuses
with what is done to it, and the rows are transposed instead: an update takes a fourteenth less
time (docs/performance.md).

The three functions are each other's derivatives, so they can be differentiated any number of times,
backwards; not forwards.
"""

import functools
import operator

import jax

# Terms of the sum that are written out.
MOST_ROWS = 32


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """The product x @ w.

    Args:
        x: [N, F]; with more than `MOST_ROWS` rows, or a single one, it is the ordinary product.
        w: [F, M], weights.
    """
    return _product(x, w) if 1 < x.shape[0] <= MOST_ROWS else x @ w


@jax.custom_vjp
def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    return x @ w


@jax.custom_vjp
def _product_with_transposed(d: jax.Array, w: jax.Array) -> jax.Array:
    """The product d @ w.T, of [N, M] and [F, M] to [N, F]."""
    # Without the barrier XLA folds both transpositions into the product, where one of w remains.
    return jax.lax.optimization_barrier(w @ d.T).T


@jax.custom_vjp
def _sum_of_outer_products(x: jax.Array, d: jax.Array) -> jax.Array:
    """The product x.T @ d, of [N, F] and [N, M] to [F, M]."""
    terms = (x[n][:, None] * d[n][None, :] for n in range(x.shape[0]))
    return functools.reduce(operator.add, terms)


def _differentiate(function, transpose) -> None:
    """Sets a bilinear function's derivative: `transpose(a, b, cotangent)` to both cotangents."""
    function.defvjp(
        lambda a, b: (function(a, b), (a, b)),
        lambda inputs, cotangent: transpose(*inputs, cotangent),
    )


_differentiate(
    _product,
    lambda x, w, y: (_product_with_transposed(y, w), _sum_of_outer_products(x, y)),
)
_differentiate(
    _product_with_transposed,
    lambda d, w, y: (_product(y, w), _sum_of_outer_products(y, d)),
)
_differentiate(
    _sum_of_outer_products,
    lambda x, d, y: (_product_with_transposed(d, y), _product(x, y)),
)
