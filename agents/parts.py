"""What an agent brings to an algorithm (agents/algorithm.py): its own update and two comparisons.

Where its inputs come from is its own affair too: batches that others have played
(agents/off_policy.py), or random keys with which it plays itself (agents/on_policy.py,
agents/q_learning.py).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from agents.matching import Matching, Weights
from agents.meta_gradient import WRITTEN_OUT, Distance, LastUpdate, MetaOutput, Update
from agents.meta_parameters import Tuned
from agents.optimizers import TargetStep
from agents.update import InnerState, Metrics


class Parts(NamedTuple):
    """The functions that an algorithm is put together from; states and inputs are the agent's."""

    init: Callable[[jax.Array], tuple[Any, Any]]  # key -> first state and meta-parameters
    update: Update  # phi
    outer_update: Callable[[TargetStep], LastUpdate]  # a step on the plain objective
    distance: Callable[[Matching, Weights], Distance]  # a matching function between states
    tuned: Tuned
    # The part of a state that has parameters, and what `tuned` depends on beside meta-parameters.
    learner: Callable[[Any], InnerState] = lambda state: state
    context: Callable[[Any], Any] = lambda state: ()
    # See `bootstrapped_meta_gradient`: what is best depends on the size of the network.
    recompute: bool = True
    written_out: int = WRITTEN_OUT
    report: Callable[[MetaOutput], Metrics] = lambda output: {}  # of a meta-update


# Of agents that play between their updates: beside the learner a state has their world and what
# they saw of it. Small dense networks are fastest with scanned steps and kept activations.
parts_of_own_play = functools.partial(
    Parts,
    learner=lambda state: state.inner,
    context=lambda state: state.context,
    recompute=False,
    written_out=0,
)
