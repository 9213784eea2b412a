"""Inner optimisers, in the forms that can be differentiated through.

Meta-gradients differentiate through the optimiser, where a square root at zero gives NaN: one
unused bias is enough. So an epsilon stands inside every root here: optax's `rmsprop` default and
the published TensorFlow form have it there; `adam`, and RMSProp with its epsilon outside, have a
second one inside, too small to change a step. The norm is clipped by our own transformation,
because `optax.clip_by_global_norm` is NaN at an all-zero gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents.settings import OptimizerSettings

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


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
    """An inner optimiser.

    Raises:
        KeyError: an unknown name.
    """
    epsilon = settings.epsilon
    rms = {
        "inside": lambda decay: optax.scale_by_rms(decay=decay, eps=epsilon, eps_in_sqrt=True),
        "outside": lambda decay: scale_by_rms_outside(decay, epsilon),
    }
    rules = {
        "sgd": lambda: optax.identity(),
        "rmsprop": lambda: rms[settings.epsilon_placement](settings.decay),
        "adam": lambda: optax.scale_by_adam(
            b1=settings.adam_beta1, eps=epsilon, eps_root=_ROOT_EPSILON
        ),
    }
    clip = [clip_by_norm(settings.max_gradient_norm)] if settings.max_gradient_norm else []
    decay = settings.gradient_decay
    average = [optax.ema(decay, debias=False)] if decay else []
    scale = optax.scale_by_learning_rate(settings.learning_rate)
    return optax.chain(*clip, *average, rules[settings.name](), scale)


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


class TargetStep(NamedTuple):
    """How the target of a bootstrapped meta-gradient takes its last step.

    No average of earlier gradients is in it. Those followed the learned objective, and with Adam's
    usual momentum they are nine tenths of a step: the target would lie where the learner is going
    anyway, and every hyper-parameter would be found good (docs/results/minatar measures that).
    """

    optimizer: optax.GradientTransformation
    state: Callable[[Any], Any]  # the optimiser's, made of the learner's `params` and `opt_state`


def own_step(settings: OptimizerSettings) -> TargetStep:
    """A step of the learner's own optimiser, with its second moments."""
    optimizer = make_optimizer(settings._replace(gradient_decay=0.0, adam_beta1=0.0))

    return TargetStep(optimizer, lambda learner: _without_average(learner.opt_state, settings))


def gradient_step(settings: OptimizerSettings) -> TargetStep:
    """A plain gradient step with the learner's rate, schedule and clipping."""
    sgd = make_optimizer(settings._replace(name="sgd", gradient_decay=0.0))

    def state(learner: Any) -> Any:
        *before, _, rate = _without_average(learner.opt_state, settings)
        return (*before, optax.EmptyState(), rate)

    return TargetStep(sgd, state)


def constant_step(learning_rate: float) -> TargetStep:
    """A plain gradient step of a constant rate, without clipping."""
    sgd = make_optimizer(OptimizerSettings("sgd", learning_rate))
    return TargetStep(sgd, lambda learner: sgd.init(learner.params))


def _without_average(opt_state: Any, settings: OptimizerSettings) -> tuple[Any, ...]:
    """`make_optimizer`'s state less that of an average of gradients, which stands before the rule.

    A schedule goes on from the learner's number of updates.
    """
    *before, rule, rate = opt_state
    return (*(before[:-1] if settings.gradient_decay else before), rule, rate)
