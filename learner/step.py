"""The learner's step: one jitted program from experience and a state to the next state."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agents.meta_gradient import (
    MakeTarget,
    Matching,
    MetaOutput,
    Update,
    bootstrapped_meta_gradient,
)
from agents.meta_parameters import MetaParams
from agents.networks import Params
from agents.trajectory import Trajectory
from agents.update import InnerState, Metrics


class Experience(NamedTuple):
    """What one step learns from, as its source sent it."""

    online: Trajectory  # [N, T, B, ...], a batch for each update that the learner keeps
    bootstrap: Trajectory | None  # [L-1, T, B, ...], of the replay; used by the target only


class MetaState(NamedTuple):
    """All that a meta-update changes."""

    params: MetaParams
    opt_state: Any


class LearnerState(NamedTuple):
    """All that the learner's step changes, and all of it that a checkpoint holds."""

    inner: InnerState
    updates: jax.Array  # int32, how many updates made these parameters
    meta: MetaState | None = None  # None where nothing is learned but the parameters


class MetaLearning(NamedTuple):
    """How the meta-parameters are learned."""

    inner_steps: int  # K
    keep_bootstrapped: bool  # whether the learner goes on from the K-th or the (K+L-1)-th update
    target: MakeTarget
    matching: Matching
    optimizer: optax.GradientTransformation
    # One gradient step of size 1 on the outer loss, and half the squared distance: they make the
    # plain meta-gradient. None where nobody asks for its cosine with ours.
    plain: tuple[MakeTarget, Matching] | None = None
    # Updates before the meta-parameters move; their optimiser sees nothing of these.
    warmup_updates: int = 0


class Learner(NamedTuple):
    """The step and what places its inputs. `step` donates its state: use each state once."""

    step: Callable[[LearnerState, Experience], tuple[LearnerState, Metrics]]
    diagnose: Callable[[LearnerState, Experience], Metrics]  # what is too dear for every step
    place_state: Callable[[LearnerState], LearnerState]
    place_batch: Callable[[Experience], Experience]
    snapshot: Callable[[Params], Params]


def init_learner_state(
    inner: InnerState,
    meta_params: MetaParams | None = None,
    meta_optimizer: optax.GradientTransformation | None = None,
) -> LearnerState:
    """The state before the first update."""
    updates = jnp.zeros((), jnp.int32)
    if meta_params is None or meta_optimizer is None:
        return LearnerState(inner, updates)
    return LearnerState(inner, updates, MetaState(meta_params, meta_optimizer.init(meta_params)))


def make_learner(
    update: Update,
    devices: Sequence[Any],
    *,
    meta: MetaLearning | None = None,
    schedule: Callable[[jax.Array], MetaParams] = lambda updates: {},
    describe: Callable[[MetaParams], Metrics] = lambda meta_params: {},
) -> Learner:
    """Builds the jitted step, its batch axis sharded over `devices` and its state replicated.

    A step with a loss, a gradient or a new state that is not finite changes nothing but is
    reported: the metric `finite` is then False, and the state stays what it was.

    Args:
        update: one update of the inner state.
        devices: of jax, in order of their processes, of each equally many; the batch size must be
            a multiple of their number. A process places its own part of a batch.
        meta: how meta-parameters are learned; None: they are not.
        schedule: without `meta`, the meta-parameters after so many updates.
        describe: the values of the hyper-parameters that are not constant, by their names.
    """
    mesh = Mesh(np.asarray(devices), ("batch",))
    replicated = NamedSharding(mesh, PartitionSpec())
    by_batch = NamedSharding(mesh, PartitionSpec(None, None, "batch"))

    def step(state: LearnerState, experience: Experience) -> tuple[LearnerState, Metrics]:
        before = state.inner.params
        if meta is None:
            new, metrics = _plain_step(state, experience, update, schedule)
            values = schedule(new.updates)
        else:
            new, metrics = _meta_step(state, experience, update, meta)
            values = new.meta.params if new.meta is not None else {}
        watched = ("loss/total", "loss/gradient_norm", "meta/loss", "meta/gradient_norm")
        # A loss is that of the parameters before: only the new state shows a step that is too long.
        finite = all_finite((new, [metrics[k] for k in watched if k in metrics]))
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        described = {f"meta/{name}": value for name, value in describe(values).items()}
        moved = _distance(new.inner.params, before)
        health = {
            "loss/update_norm": moved,
            "loss/relative_update_norm": moved / jnp.maximum(optax.tree.norm(before), 1e-12),
        }
        return new, {**metrics, **health, **described, "finite": finite}

    def diagnose(state: LearnerState, experience: Experience) -> Metrics:
        return (
            {}
            if meta is None or meta.plain is None
            else {"meta/cosine": _cosine(state, experience, update, meta)}
        )

    several = jax.process_count() > 1
    # Actors read a copy: the step donates the state, whose buffers it then writes over.
    copy = jax.jit(lambda params: jax.tree.map(jnp.copy, params))

    def snapshot(params: Params) -> Params:
        copied = copy(params)
        return jax.tree.map(lambda x: x.addressable_data(0), copied) if several else copied

    def place_batch(batch: Experience) -> Experience:
        if not several:
            return jax.device_put(batch, by_batch)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(by_batch, x), batch)

    inputs = (replicated, by_batch)
    return Learner(
        step=jax.jit(
            step, donate_argnums=0, in_shardings=inputs, out_shardings=(replicated, replicated)
        ),
        diagnose=jax.jit(diagnose, in_shardings=inputs, out_shardings=replicated),
        place_state=lambda state: jax.device_put(state, replicated),
        place_batch=place_batch,
        snapshot=snapshot,
    )


def all_finite(tree: Any) -> jax.Array:
    """Whether all floating-point numbers of a pytree are."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats]))


def _plain_step(
    state: LearnerState,
    experience: Experience,
    update: Update,
    schedule: Callable[[jax.Array], MetaParams],
) -> tuple[LearnerState, Metrics]:
    """One update on each online batch, at hyper-parameters that nobody learns."""
    inner, updates, metrics = state.inner, state.updates, {}
    for index in range(experience.online.action.shape[0]):
        batch = jax.tree.map(lambda x, index=index: x[index], experience.online)
        inner, metrics = update(inner, batch, schedule(updates))
        updates = updates + 1
    return LearnerState(inner, updates), metrics


def _meta_step(
    state: LearnerState, experience: Experience, update: Update, meta: MetaLearning
) -> tuple[LearnerState, Metrics]:
    """K updates and one of the meta-parameters."""
    assert state.meta is not None
    learned, gradients, output = meta_update(
        update, meta, state.meta, state.inner, *_inputs(experience, meta)
    )
    if meta.warmup_updates:
        warm = state.updates >= meta.warmup_updates
        learned = jax.tree.map(lambda new, old: jnp.where(warm, new, old), learned, state.meta)
    kept = output.target.bootstrapped if meta.keep_bootstrapped else output.state
    updates = state.updates + experience.online.action.shape[0]
    moved = jax.tree.map(jnp.subtract, learned.params, state.meta.params)
    metrics = {
        **jax.tree.map(lambda x: x[-1], output.aux),
        "meta/loss": output.loss,
        "meta/gradient_norm": optax.tree.norm(gradients),
        "meta/target_distance": _distance(output.target.state.params, output.state.params),
        **{f"meta/gradient/{name}": optax.tree.norm(g) for name, g in gradients.items()},
        **{f"meta/step/{name}": jnp.max(jnp.abs(change)) for name, change in moved.items()},
    }
    return LearnerState(kept, updates, learned), metrics


def _distance(a: Params, b: Params) -> jax.Array:
    """Euclidean, of all parameters."""
    return optax.tree.norm(jax.tree.map(jnp.subtract, a, b))


def meta_update(
    update: Update,
    meta: MetaLearning,
    meta_state: MetaState,
    state: Any,
    inner_inputs: Any,
    target_inputs: Any,
    **options: Any,
) -> tuple[MetaState, MetaParams, MetaOutput]:
    """One update of the meta-parameters, through K updates from `state`.

    Args:
        update: one update of `state`.
        meta: how meta-parameters are learned.
        meta_state: theirs.
        state: the learner's.
        inner_inputs: of the K updates.
        target_inputs: of the L steps to the target.
        options: of `bootstrapped_meta_gradient`.

    Returns:
        The next meta-state, the meta-gradient, and what else its computation gave.
    """
    meta_gradient = bootstrapped_meta_gradient(update, meta.target, meta.matching, **options)
    gradients, output = meta_gradient(meta_state.params, state, inner_inputs, target_inputs)
    changes, opt_state = meta.optimizer.update(gradients, meta_state.opt_state, meta_state.params)
    params = jax.tree.map(jnp.add, meta_state.params, changes)
    return MetaState(params, opt_state), gradients, output


def _inputs(experience: Experience, meta: MetaLearning) -> tuple[Trajectory, Trajectory]:
    """Inputs of the K updates and of the L bootstrap steps.

    The last bootstrap step and the matching function see the newest online batch; with L = 1 that
    is the K-th, as in STACX.
    """
    online, k = experience.online, meta.inner_steps
    first = jax.tree.map(lambda x: x[:k], online)
    further = jax.tree.map(lambda x: x[k:], online)
    last = jax.tree.map(lambda x: x[-1:], online)
    if meta.keep_bootstrapped:
        between = further
    elif experience.bootstrap is None:
        return first, last
    else:
        between = experience.bootstrap
    return first, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), between, last)


def _cosine(
    state: LearnerState, experience: Experience, update: Update, meta: MetaLearning
) -> jax.Array:
    """Between the meta-gradient and the plain one, over all meta-parameters."""
    assert state.meta is not None
    assert meta.plain is not None
    inner_inputs, target_inputs = _inputs(experience, meta)
    arguments = state.meta.params, state.inner, inner_inputs
    meta_gradient = bootstrapped_meta_gradient(update, meta.target, meta.matching)
    ours, _ = meta_gradient(*arguments, target_inputs)
    plain_meta_gradient = bootstrapped_meta_gradient(update, *meta.plain)
    newest = jax.tree.map(lambda x: x[-1:], target_inputs)
    plain, _ = plain_meta_gradient(*arguments, newest)
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), ours, plain)
    norms = optax.tree.norm(ours) * optax.tree.norm(plain)
    return jnp.where(norms > 0.0, sum(jax.tree.leaves(products)) / norms, 0.0)
