"""The learner's step: one jitted program from experience and a state to the next state."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agents.algorithm import Algorithm, State
from agents.networks import Params
from agents.trajectory import Trajectory
from agents.update import Metrics


class Experience(NamedTuple):
    """What one step learns from, as its source sent it."""

    online: Trajectory  # [N, T, B, ...], a batch for each update that the learner keeps
    bootstrap: Trajectory | None  # [L-1, T, B, ...], of the replay; used by the target only


class Learner(NamedTuple):
    """The step and what places its inputs. `step` donates its state: use each state once."""

    step: Callable[[State, Experience], tuple[State, Metrics]]
    diagnose: Callable[[State, Experience], Metrics]  # what is too dear for every step
    place_state: Callable[[State], State]
    place_batch: Callable[[Experience], Experience]
    snapshot: Callable[[Params], Params]


def make_learner(algorithm: Algorithm, devices: Sequence[Any]) -> Learner:
    """Builds the jitted step, its batch axis sharded over `devices` and its state replicated.

    A step with a loss, a gradient or a new state that is not finite changes nothing but is
    reported: the metric `finite` is then False, and the state stays what it was.

    Args:
        algorithm: whose inputs are batches of trajectories.
        devices: of jax, in order of their processes, of each equally many; the batch size must be
            a multiple of their number. A process places its own part of a batch.
    """
    mesh = Mesh(np.asarray(devices), ("batch",))
    replicated = NamedSharding(mesh, PartitionSpec())
    by_batch = NamedSharding(mesh, PartitionSpec(None, None, "batch"))

    def step(state: State, experience: Experience) -> tuple[State, Metrics]:
        before = state.inner.params
        new, metrics = algorithm.step(state, experience.online, experience.bootstrap)
        watched = ("loss/total", "loss/gradient_norm", "meta/loss", "meta/gradient_norm")
        # A loss is that of the parameters before: only the new state shows a step that is too long.
        finite = all_finite((new, [metrics[k] for k in watched if k in metrics]))
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        moved = optax.tree.norm(jax.tree.map(jnp.subtract, new.inner.params, before))
        health = {
            "loss/update_norm": moved,
            "loss/relative_update_norm": moved / jnp.maximum(optax.tree.norm(before), 1e-12),
        }
        return new, {**metrics, **health, "finite": finite}

    def diagnose(state: State, experience: Experience) -> Metrics:
        return algorithm.diagnose(state, experience.online, experience.bootstrap)

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
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(x)) for x in floats], bool))
