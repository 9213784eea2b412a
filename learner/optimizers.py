"""Inner optimisers, in the forms that can be differentiated through.

Meta-gradients differentiate through the optimiser, where a square root at zero gives NaN: one
unused bias is enough. So an epsilon stands inside every root here (optax's `rmsprop` default and
the published TensorFlow form; `adam` has a second one, `eps_root`), and the norm is clipped by our
own transformation, because `optax.clip_by_global_norm` is NaN at an all-zero gradient.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

OptimizerName = Literal["sgd", "rmsprop", "adam"]

# Inside the root of a sum of squares: far below float32's resolution of any real gradient norm.
_NORM_EPSILON = 1e-16


def clip_by_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales gradients so that their global norm is at most `max_norm`."""

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        norm = gradient_norm(updates)
        scale = max_norm / jnp.maximum(norm, max_norm)
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(init, update)


def gradient_norm(gradients: optax.Updates) -> jax.Array:
    """Global Euclidean norm, with a finite derivative at zero."""
    squares = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients))
    return jnp.sqrt(squares + _NORM_EPSILON)


def make_optimizer(
    name: OptimizerName,
    learning_rate: optax.ScalarOrSchedule,
    *,
    decay: float = 0.99,
    epsilon: float = 0.01,
    max_gradient_norm: float = 0.0,
    gradient_decay: float = 0.0,
) -> optax.GradientTransformation:
    """An inner optimiser.

    Args:
        name: "sgd"; "rmsprop", without momentum; "adam", with betas 0.9 and 0.999.
        learning_rate: a number, or a schedule of the number of updates.
        decay: of RMSProp's second moment.
        epsilon: RMSProp's, inside the root; Adam's, outside, beside a fixed one inside.
        max_gradient_norm: global norm to clip at before anything else; 0 does not clip.
        gradient_decay: of a moving average of the gradients, which the rule then gets instead; 0
            averages nothing.

    Raises:
        KeyError: an unknown name.
    """
    rules = {
        "sgd": lambda: optax.identity(),
        "rmsprop": lambda: optax.scale_by_rms(decay=decay, eps=epsilon, eps_in_sqrt=True),
        "adam": lambda: optax.scale_by_adam(eps=epsilon, eps_root=1e-16),
    }
    clip = [clip_by_norm(max_gradient_norm)] if max_gradient_norm else []
    average = [optax.ema(gradient_decay, debias=False)] if gradient_decay else []
    return optax.chain(*clip, *average, rules[name](), optax.scale_by_learning_rate(learning_rate))


def without_second_moments(opt_state: Any) -> Any:
    """An optimiser's state for the "sgd" of the same learning rate and clipping.

    A schedule goes on from the learner's number of updates.
    """
    *before, _, rate = opt_state
    return (*before, optax.EmptyState(), rate)
