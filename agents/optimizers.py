"""Inner optimisers, in the forms that can be differentiated through.

Meta-gradients differentiate through the optimiser, where a square root at zero gives NaN: one
unused bias is enough. So an epsilon stands inside every root here: optax's `rmsprop` default and
the published TensorFlow form have it there; `adam`, and RMSProp with its epsilon outside, have a
second one inside, too small to change a step. The norm is clipped by our own transformation,
because `optax.clip_by_global_norm` is NaN at an all-zero gradient.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

OptimizerName = Literal["sgd", "rmsprop", "adam"]
EpsilonPlacement = Literal["inside", "outside"]

# Inside the root of a sum of squares: far below float32's resolution of any real gradient norm.
_NORM_EPSILON = 1e-16
# Inside the root of a second moment whose epsilon stands outside: it makes the derivative finite at
# zero, and is far below the square of any epsilon in use.
_ROOT_EPSILON = 1e-16


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


def scale_by_rms_outside(decay: float, epsilon: float) -> optax.GradientTransformation:
    """Divides gradients by sqrt(second moment) + epsilon: RMSProp as Tieleman and Hinton wrote it.

    A step is at most learning rate * |gradient| / epsilon, where the form with epsilon inside the
    root has its square root there: with an epsilon of 1e-4 that is a hundred times less.
    """

    def init(params):
        return optax.ScaleByRmsState(nu=optax.tree.zeros_like(params))

    def update(updates, state, params=None):
        del params
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, decay, 2)
        scaled = jax.tree.map(lambda g, n: g / (jnp.sqrt(n + _ROOT_EPSILON) + epsilon), updates, nu)
        return scaled, optax.ScaleByRmsState(nu=nu)

    return optax.GradientTransformation(init, update)


def make_optimizer(
    name: OptimizerName,
    learning_rate: optax.ScalarOrSchedule,
    *,
    decay: float = 0.99,
    epsilon: float = 0.01,
    epsilon_placement: EpsilonPlacement = "inside",
    max_gradient_norm: float = 0.0,
    gradient_decay: float = 0.0,
    adam_beta1: float = 0.9,
) -> optax.GradientTransformation:
    """An inner optimiser.

    Args:
        name: "sgd"; "rmsprop", without momentum; "adam", with a second moment of decay 0.999.
        learning_rate: a number, or a schedule of the number of updates.
        decay: of RMSProp's second moment.
        epsilon: of RMSProp and Adam.
        epsilon_placement: of RMSProp's, inside its root or outside; Adam's is always outside.
        max_gradient_norm: global norm to clip at before anything else; 0 does not clip.
        gradient_decay: of a moving average of the gradients, which the rule then gets instead; 0
            averages nothing.
        adam_beta1: of Adam's first moment: another such average, but corrected for its start at
            zero, and of gradients whose second moment is their own; 0 averages nothing.

    Raises:
        KeyError: an unknown name.
    """
    rms = {
        "inside": lambda decay, eps: optax.scale_by_rms(decay=decay, eps=eps, eps_in_sqrt=True),
        "outside": scale_by_rms_outside,
    }
    rules = {
        "sgd": lambda: optax.identity(),
        "rmsprop": lambda: rms[epsilon_placement](decay, epsilon),
        "adam": lambda: optax.scale_by_adam(b1=adam_beta1, eps=epsilon, eps_root=_ROOT_EPSILON),
    }
    clip = [clip_by_norm(max_gradient_norm)] if max_gradient_norm else []
    average = [optax.ema(gradient_decay, debias=False)] if gradient_decay else []
    return optax.chain(*clip, *average, rules[name](), optax.scale_by_learning_rate(learning_rate))


def make_meta_optimizer(
    learning_rate: float, *, epsilon: float, max_gradient_norm: float = 0.0
) -> optax.GradientTransformation:
    """Adam on the meta-parameters, which nothing differentiates through.

    With an epsilon below all gradients its step does not depend on their scale. So matching
    functions that are means or sums, of nats, of squared rewards or of squared parameters, and
    STACX's summed outer loss, are compared at the same steps.

    Args:
        learning_rate: about the largest step of a meta-parameter, in logits.
        epsilon: beside the root of the second moment; there is none inside.
        max_gradient_norm: global norm to clip at before; 0 does not clip.
    """
    clip = [clip_by_norm(max_gradient_norm)] if max_gradient_norm else []
    return optax.chain(
        *clip, optax.scale_by_adam(eps=epsilon), optax.scale_by_learning_rate(learning_rate)
    )


def without_second_moments(opt_state: Any) -> Any:
    """An optimiser's state for the "sgd" of the same learning rate and clipping.

    A schedule goes on from the learner's number of updates.
    """
    *before, _, rate = opt_state
    return (*before, optax.EmptyState(), rate)
