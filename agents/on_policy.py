"""An update that plays its own experience, for environments that run on the learner's device.

`on_policy` lifts an update on trajectories to one whose inputs are random keys, so that everything
which takes an update (a meta-gradient, a bootstrapped target, a scan) takes it unchanged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents.matching import Matching, Weights, compare
from agents.meta_network import RewardContext, add_reward
from agents.networks import Network, Params
from agents.trajectory import Trajectory
from agents.update import InnerState, Metrics, Update

# (parameters, environment's state, key) -> (environment's state, trajectory with B = 1)
Unroll = Callable[[Params, Any, jax.Array], tuple[Any, Trajectory]]


class OnPolicyState(NamedTuple):
    """All that one update of one seed changes: the learner, its environment, and what it saw."""

    inner: InnerState
    environment: Any
    trajectory: Trajectory  # [T, 1], played by `inner`, not yet learned from
    context: RewardContext  # of the unrolls up to `trajectory`, which the meta-network sees
    tally: Metrics  # sums since they were last cleared


# update(state, key, meta_params) -> (state, metrics), as `agents.meta_gradient.Update`
LiftedUpdate = Callable[[OnPolicyState, jax.Array, Any], tuple[OnPolicyState, Metrics]]


def on_policy(update: Update, unroll: Unroll, describe: Callable[[Any], Metrics]) -> LiftedUpdate:
    """Lifts an update on trajectories to one that learns from its own and then plays the next.

    The meta-parameters that `update` and `describe` get are the pair of the lifted update's own and
    of the context.

    Learning comes first: the trajectory that the last of a series of updates has played is then
    there for the target's last step and for the matching function, and the next series learns from
    it, so that nothing is played in vain.

    Args:
        update: one update on one trajectory.
        unroll: plays one.
        describe: hyper-parameters by name, which are summed in the tally.
    """

    def lifted(
        state: OnPolicyState, key: jax.Array, meta_params: Any
    ) -> tuple[OnPolicyState, Metrics]:
        inputs = (meta_params, state.context)
        inner, metrics = update(state.inner, state.trajectory, inputs)
        # What is played depends on the parameters, but is data to every later update: without this
        # the meta-gradient would also flow through the probabilities in `behaviour_logits`.
        environment, trajectory = jax.lax.stop_gradient(
            unroll(inner.params, state.environment, key)
        )
        seen = tally(metrics, describe(inputs), trajectory.reward)
        return OnPolicyState(
            inner,
            environment,
            trajectory,
            add_reward(state.context, jnp.mean(trajectory.reward)),
            jax.tree.map(jnp.add, state.tally, seen),
        ), {}

    return lifted


def init_on_policy_state(
    inner: InnerState,
    environment: Any,
    update: Update,
    unroll: Unroll,
    describe: Callable[[Any], Metrics],
    inputs: tuple[Any, RewardContext],
    key: jax.Array,
) -> OnPolicyState:
    """The state before the first update; the first trajectory has been played.

    Args:
        inner: the learner's.
        environment: its first state.
        update: as for `on_policy`.
        unroll: as for `on_policy`.
        describe: as for `on_policy`.
        inputs: meta-parameters, and the context before the first reward.
        key: of the first trajectory.
    """
    environment, trajectory = unroll(inner.params, environment, key)

    def first() -> Metrics:
        metrics = update(inner, trajectory, inputs)[1]
        return tally(metrics, describe(inputs), trajectory.reward)

    sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(first))
    context = add_reward(inputs[1], jnp.mean(trajectory.reward))
    return OnPolicyState(inner, environment, trajectory, context, sums)


# The gradient's norm would cost a pass over all parameters, a tenth of an update; shares of the
# variance of 16 steps say little.
_NOT_TALLIED = ("loss/gradient_norm", "loss/explained_variance")


def tally(metrics: Metrics, hyper: Metrics, reward: jax.Array) -> Metrics:
    """What one update adds to the tally: losses, hyper-parameters and collected reward.

    Args:
        metrics: of the update.
        hyper: values of hyper-parameters by name.
        reward: any shape.
    """
    losses = {k: v for k, v in metrics.items() if k not in _NOT_TALLIED}
    values = {f"meta/{name}": value for name, value in hyper.items()}
    seen = {**losses, **values, "reward": jnp.sum(reward), "updates": jnp.ones(())}
    # Nothing asks for its derivative, which would be computed all the same in a scan's carry.
    return jax.lax.stop_gradient(seen)


def plain_last_update(
    rule: Update, opt_state: Callable[[InnerState], Any]
) -> Callable[[OnPolicyState, OnPolicyState, Any], OnPolicyState]:
    """The target's last step: `rule`, the plain objective's, on what was played last.

    The trajectory stays where it is: matching functions compare policies at its states.

    Args:
        rule: an update whose hyper-parameters are those of the plain objective.
        opt_state: of its optimiser, from the learner's state.
    """

    def last_update(initial: OnPolicyState, state: OnPolicyState, key: Any) -> OnPolicyState:
        del initial, key  # nothing refers to the start, and nothing more is played
        inner = InnerState(state.inner.params, opt_state(state.inner))
        return state._replace(inner=rule(inner, state.trajectory, {})[0])

    return last_update


def match_where_played(
    network: Network, matching: Matching, weights: Weights
) -> Callable[[OnPolicyState, OnPolicyState, Any], jax.Array]:
    """A matching function at the states of the target's last trajectory."""

    def match(target: OnPolicyState, learner: OnPolicyState, keys: Any) -> jax.Array:
        del keys
        params = (target.inner.params, learner.inner.params)
        return compare(network, matching, weights, *params, target.trajectory)

    return match
