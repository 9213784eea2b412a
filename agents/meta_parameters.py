"""Meta-parameters: unconstrained numbers, and the learned hyper-parameters they stand for.

Zahavy et al. 2020 (arXiv 2002.12928): value = upper * sigmoid(meta-parameter), so that a learned
hyper-parameter stays between 0 and its upper bound.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents.hyperparameters import HYPERPARAMETERS, Hyperparameters, Learned

# By hyper-parameter; [heads] or scalar; empty where nothing is learned.
MetaParams = dict[str, jax.Array]

# sigmoid(4.6) = 0.99, the published initial value: a hyper-parameter that starts at its bound would
# have no gradient, so it starts one per cent inside.
_INITIAL_LOGIT_AT_BOUND = 4.6


class Tuned(NamedTuple):
    """Hyper-parameters as a function of meta-parameters, and of a context they may depend on.

    Single numbers depend on none, which is (); the meta-network's is of recent rewards.
    """

    learned: tuple[str, ...]  # names of those that are no constants
    init: Callable[[jax.Array], Any]  # key -> meta-parameters
    values: Callable[[Any, Any], Hyperparameters]  # (meta-parameters, context) -> all of them
    # Of a pytree like the meta-parameters, the part that says most of each learned value.
    by_name: Callable[[Any], Mapping[str, jax.Array]] = lambda meta_params: meta_params


def init_meta_params(learned: Mapping[str, Learned], heads: int) -> MetaParams:
    """Meta-parameters at which the hyper-parameters have their starting values.

    One that starts at a bound, 0 or its upper one, starts one per cent inside.

    Args:
        learned: by name of the hyper-parameter.
        heads: policy and value heads; each has its own hyper-parameters where there are several.
    """
    # With a type of their own: a weak one would change in the first steps, and each would compile.
    return {
        name: jnp.full(_shape(name, heads), initial_logit(start / upper), jnp.result_type(float))
        for name, (start, upper) in learned.items()
    }


def single_numbers(fixed: Mapping[str, float], learned: Mapping[str, Learned], heads: int) -> Tuned:
    """Hyper-parameters that are single numbers: value = upper * sigmoid(meta-parameter).

    Args:
        fixed: value of each hyper-parameter that is not learned.
        learned: as for `init_meta_params`.
        heads: as for `init_meta_params`.
    """
    constants = _constants(fixed, heads)

    def values(meta_params: MetaParams, context: Any) -> Hyperparameters:
        del context
        tuned = {
            name: learned[name].upper * jax.nn.sigmoid(logit) for name, logit in meta_params.items()
        }
        return {**constants, **tuned}

    return Tuned(tuple(learned), lambda key: init_meta_params(learned, heads), values)


def replayed_numbers(fixed: Mapping[str, float], names: Sequence[str], heads: int) -> Tuned:
    """Hyper-parameters of which some are given in place of meta-parameters, as they are.

    Args:
        fixed: value of each of the others.
        names: of those that are given.
        heads: as for `init_meta_params`.
    """
    constants = _constants(fixed, heads)
    return Tuned(tuple(names), lambda key: {}, lambda given, context: {**constants, **given})


def _constants(fixed: Mapping[str, float], heads: int) -> dict[str, jax.Array]:
    return {name: jnp.full(_shape(name, heads), value) for name, value in fixed.items()}


def learned_values(tuned: Tuned, values: Hyperparameters) -> dict[str, jax.Array]:
    """The learned ones of all values, each a scalar under a name of its own."""
    return named_values({name: values[name] for name in tuned.learned})


def named_values(values: Hyperparameters) -> dict[str, jax.Array]:
    """One scalar for each value: the acting head's by its name, the others' behind their head's."""
    scalars = {}
    for name, value in values.items():
        value = jnp.asarray(value)
        if value.ndim == 0:
            scalars[name] = value
            continue
        scalars[name] = value[0]
        scalars |= {f"auxiliary_{i}/{name}": value[i] for i in range(1, value.shape[0])}
    return scalars


def _shape(name: str, heads: int) -> tuple[int, ...]:
    per_head = name not in HYPERPARAMETERS or HYPERPARAMETERS[name].per_head
    return (heads,) if heads > 1 and per_head else ()


def initial_logit(share: float) -> float:
    """Of a starting value given as a share of its upper bound."""
    if share <= 0.0 or share >= 1.0:
        return math.copysign(_INITIAL_LOGIT_AT_BOUND, share - 0.5)
    return math.log(share / (1.0 - share))
