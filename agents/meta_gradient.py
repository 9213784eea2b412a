"""The bootstrapped meta-gradient of Flennerhag et al. (arXiv 2109.04504).

Generic: knows no reinforcement learning, no network and no hyper-parameters. Everything that it is
given is a function over pytrees: an actor-critic, Q(lambda) and few-shot learning differ only in
their `update`, `target`, `distance` and `start`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Steps; more of them would take long to compile. On CPUs XLA runs the convolutions of a loop ten
# times slower than those outside it.
WRITTEN_OUT = 8

# update(state, inputs of one step, meta_params) -> (state, aux): phi, with its optimiser.
Update = Callable[[Any, Any, Any], tuple[Any, Any]]
# target(initial state, state after K steps, inputs of L steps, meta_params): see `Target`.
MakeTarget = Callable[[Any, Any, Any, Any], "Target"]
# last_update(initial state, state, inputs of one step) -> the target's state.
LastUpdate = Callable[[Any, Any, Any], Any]
# distance(target state, learner's state, inputs of L steps) -> scalar: mu.
Distance = Callable[[Any, Any, Any], jax.Array]
# start(meta_params, state) -> the state of which the first update is made.
Start = Callable[[Any, Any], Any]


class Target(NamedTuple):
    """Where the learner should have got to."""

    state: Any  # x~: after L steps, the last of which followed the plain objective
    bootstrapped: Any  # after the L - 1 steps before that one


class MetaOutput(NamedTuple):
    """What else a meta-gradient has computed."""

    state: Any  # after K steps; the learner goes on from here,
    target: Target  # or from `target.bootstrapped`, which wastes no experience
    loss: jax.Array  # matching loss
    aux: Any  # of the K updates, leading axis K


MetaGradient = Callable[[Any, Any, Any, Any], tuple[Any, MetaOutput]]


def bootstrapped_meta_gradient(
    update: Update,
    target: MakeTarget,
    distance: Distance,
    *,
    start: Start = lambda meta_params, state: state,
    recompute: bool = True,
    written_out: int = WRITTEN_OUT,
) -> MetaGradient:
    """Builds `meta_gradient(meta_params, state, inner_inputs, target_inputs)`.

    It is the gradient of distance(target, state after K updates) with respect to the
    meta-parameters, back through the K updates; the target is data. K and L are the leading axes
    of `inner_inputs` and `target_inputs`. It may be jitted, vmapped, scanned and sharded.

    Unless `start` makes it, nothing flows into the state before the first update, so with K = 1 the
    way back is one forward-mode pass of the network.

    Args:
        update: one step of the learner.
        target: where it should have got to.
        distance: how far it is from there.
        start: the state before the first update, where meta-parameters decide that too, as the
            first weights of few-shot learning do. The gradient goes through it, and the target
            gets what it makes as the initial state.
        recompute: each update but the first keeps only its input state for the way back and is
            computed again there, so that memory grows with K by states, not by activations.
            Without it small networks are faster.
        written_out: so many updates are written out, more are scanned.
    """

    def inner(meta_params: Any, state: Any, inputs: Any) -> tuple[Any, Any]:
        state, aux = update(state, row(inputs, 0), meta_params)
        aux = jax.tree.map(lambda x: jnp.expand_dims(x, 0), aux)
        if length(inputs) == 1:
            return state, aux
        keep = jax.checkpoint if recompute else lambda step: step
        step = keep(lambda s, x: update(s, x, meta_params))
        further = jax.tree.map(lambda x: x[1:], inputs)
        state, others = _steps(step, state, further, written_out)
        return state, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), aux, others)

    def meta_gradient(
        meta_params: Any, state: Any, inner_inputs: Any, target_inputs: Any
    ) -> tuple[Any, MetaOutput]:
        def matching_loss(meta_params: Any) -> tuple[jax.Array, MetaOutput]:
            first = start(meta_params, state)
            final, aux = inner(meta_params, first, inner_inputs)
            # The target is data, whatever made it.
            goal = target(*jax.lax.stop_gradient((first, final, target_inputs, meta_params)))
            loss = distance(goal.state, final, target_inputs)
            return loss, MetaOutput(final, goal, loss, aux)

        return jax.grad(matching_loss, has_aux=True)(meta_params)

    return meta_gradient


def bootstrap_target(
    update: Update,
    last_update: LastUpdate,
    *,
    written_out: int = WRITTEN_OUT,
) -> MakeTarget:
    """L - 1 further steps of the learned rule, then one on the plain objective (section 3.1).

    Args:
        update: as the learner's own.
        last_update: (initial state, state, inputs of one step) to the target's state; the
            state before the K updates is there for objectives that refer to it.
        written_out: so many updates are written out, more are scanned.
    """

    def target(initial: Any, final: Any, inputs: Any, meta_params: Any) -> Target:
        state, steps = final, length(inputs)
        if steps > 1:
            further = jax.tree.map(lambda x: x[:-1], inputs)
            state, _ = _steps(lambda s, x: update(s, x, meta_params), state, further, written_out)
        return Target(last_update(initial, state, row(inputs, steps - 1)), state)

    return target


def _steps(
    step: Callable[[Any, Any], tuple[Any, Any]], state: Any, inputs: Any, written_out: int
) -> tuple[Any, Any]:
    """`lax.scan`, but a few steps are written out."""
    if length(inputs) > written_out:
        return jax.lax.scan(step, state, inputs)
    outputs = []
    for index in range(length(inputs)):
        state, aux = step(state, row(inputs, index))
        outputs.append(aux)
    return state, jax.tree.map(lambda *x: jnp.stack(x), *outputs)


def length(inputs: Any) -> int:
    """How many steps inputs are of, their leading axis."""
    return jax.tree.leaves(inputs)[0].shape[0]


def row(inputs: Any, index: int) -> Any:
    """Inputs of one step."""
    return jax.tree.map(lambda x: x[index], inputs)
