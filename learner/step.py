"""The learner's step: one jitted program from a batch and a state to the next state."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agents.networks import Params
from agents.trajectory import Trajectory
from learner.update import InnerState, Metrics, Update


class LearnerState(NamedTuple):
    """All that the learner's step changes, and all of it that a checkpoint holds."""

    inner: InnerState
    updates: jax.Array  # int32, how many updates made these parameters


class Learner(NamedTuple):
    """The step and what places its inputs. `step` donates its state: use each state once."""

    step: Callable[[LearnerState, Trajectory], tuple[LearnerState, Metrics]]
    place_state: Callable[[LearnerState], LearnerState]
    place_batch: Callable[[Trajectory], Trajectory]
    snapshot: Callable[[Params], Params]


def init_learner_state(inner: InnerState) -> LearnerState:
    """The state before the first update."""
    return LearnerState(inner, jnp.zeros((), jnp.int32))


def make_learner(
    update: Update, view: Callable[[Trajectory], Trajectory], devices: Sequence[Any]
) -> Learner:
    """Builds the jitted step, its batch axis sharded over `devices` and its state replicated.

    A batch whose loss or gradient is not finite changes nothing but is reported: the metric
    `finite` is then False, and the parameters stay those of the last good update, so that what is
    checkpointed can be resumed.

    Args:
        update: one update of the inner state.
        view: what the losses see of a batch (stacked frames, clipped rewards).
        devices: of jax; the batch size must be a multiple of their number.
    """
    mesh = Mesh(np.asarray(devices), ("batch",))
    replicated = NamedSharding(mesh, PartitionSpec())
    by_batch = NamedSharding(mesh, PartitionSpec(None, "batch"))

    def step(state: LearnerState, batch: Trajectory) -> tuple[LearnerState, Metrics]:
        inner, metrics = update(state.inner, view(batch), {})
        finite = jnp.isfinite(metrics["loss/total"]) & jnp.isfinite(metrics["loss/gradient_norm"])
        inner = jax.tree.map(lambda new, old: jnp.where(finite, new, old), inner, state.inner)
        updates = state.updates + finite.astype(jnp.int32)
        return LearnerState(inner, updates), {**metrics, "finite": finite}

    return Learner(
        step=jax.jit(
            step,
            donate_argnums=0,
            in_shardings=(replicated, by_batch),
            out_shardings=(replicated, replicated),
        ),
        place_state=lambda state: jax.device_put(state, replicated),
        place_batch=lambda batch: jax.device_put(batch, by_batch),
        # Actors read a copy: the step donates the state, whose buffers it then writes over.
        snapshot=jax.jit(lambda params: jax.tree.map(jnp.copy, params)),
    )
