"""An update that plays its own experience, for environments that run on the learner's device.

`on_policy` lifts an update on trajectories to one whose inputs are random keys, so that everything
which takes an update (a meta-gradient, a bootstrapped target, a scan) takes it unchanged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agents import actor_critic
from agents.hyperparameters import Hyperparameters
from agents.matching import Matching, Weights, compare
from agents.meta_gradient import Distance, LastUpdate, Update
from agents.meta_network import RewardContext, add_reward, init_context, tuned_by_rewards
from agents.meta_parameters import Tuned, learned_values
from agents.networks import Network, Params
from agents.objectives import OBJECTIVES
from agents.optimizers import TargetStep, make_optimizer
from agents.parts import Parts, parts_of_own_play
from agents.settings import Settings
from agents.trajectory import Trajectory
from agents.update import InnerState, Metrics, Rule, init_inner_state, make_rule

# (parameters, environment's state, key) -> (environment's state, trajectory with B = 1)
Unroll = Callable[[Params, Any, jax.Array], tuple[Any, Trajectory]]


class OnPolicyState(NamedTuple):
    """All that one update of one seed changes: the learner, its environment, and what it saw."""

    inner: InnerState
    environment: Any
    trajectory: Trajectory  # [T, 1], played by `inner`, not yet learned from
    context: RewardContext  # of the unrolls up to `trajectory`, which the meta-network sees
    tally: Metrics  # sums since they were last cleared


def on_policy_parts(
    settings: Settings, network: Network, reset: Callable[[jax.Array], Any], unroll: Unroll
) -> Parts:
    """The parts of an actor-critic that plays its own experience; its inputs are random keys.

    Args:
        settings: of the agent.
        network: policy and value.
        reset: from a key to the environment's first state.
        unroll: plays a trajectory.
    """
    optimizer = make_optimizer(settings.optimizer)
    named = OBJECTIVES[settings.objective]
    objective = (
        named.own_targets or named.make_targets,
        actor_critic.reduced(named.loss, settings.loss),
    )
    rule = make_rule(network, *objective, optimizer)
    tuned = tuned_by_rewards(settings)

    def init(key: jax.Array) -> tuple[OnPolicyState, Any]:
        for_network, for_environment, for_weights, for_unroll = jax.random.split(key, 4)
        inner = init_inner_state(network.init(for_network), optimizer)
        meta_params = tuned.init(for_weights)
        context = init_context(settings.meta.context_length)
        first = reset(for_environment)
        hyper = tuned.values(meta_params, context)
        environment, trajectory = unroll(inner.params, first, for_unroll)
        sums = _no_tally(rule, tuned, inner, trajectory, hyper)
        context = add_reward(context, jnp.mean(trajectory.reward))
        return OnPolicyState(inner, environment, trajectory, context, sums), meta_params

    def outer_update(step: TargetStep) -> LastUpdate:
        """Of what was played last; matching functions then compare policies at its states."""
        plain = make_rule(network, *objective, step.optimizer)

        def last_update(initial: OnPolicyState, state: OnPolicyState, key: Any) -> OnPolicyState:
            del initial, key  # nothing refers to the start, and nothing more is played
            inner = InnerState(state.inner.params, step.state(state.inner))
            return state._replace(inner=plain(inner, state.trajectory, settings.outer)[0])

        return last_update

    def distance(matching: Matching, weights: Weights) -> Distance:
        def between(target: OnPolicyState, learner: OnPolicyState, keys: Any) -> jax.Array:
            del keys
            params = target.inner.params, learner.inner.params
            return compare(network, matching, weights, *params, target.trajectory)

        return between

    return parts_of_own_play(init, on_policy(rule, unroll, tuned), outer_update, distance, tuned)


def on_policy(rule: Rule, unroll: Unroll, tuned: Tuned) -> Update:
    """Lifts an update on trajectories to one that learns from its own and then plays the next.

    Learning comes first: the trajectory that the last of a series of updates has played is then
    there for the target's last step and for the matching function, and the next series learns from
    it, so that nothing is played in vain.

    Args:
        rule: one update on one trajectory.
        unroll: plays one.
        tuned: hyper-parameters; the learned ones are summed in the tally.
    """

    def lifted(
        state: OnPolicyState, key: jax.Array, meta_params: Any
    ) -> tuple[OnPolicyState, Metrics]:
        hyper = tuned.values(meta_params, state.context)
        inner, metrics = rule(state.inner, state.trajectory, hyper)
        # What is played depends on the parameters, but is data to every later update: without this
        # the meta-gradient would also flow through the probabilities in `behaviour_logits`.
        environment, trajectory = jax.lax.stop_gradient(
            unroll(inner.params, state.environment, key)
        )
        seen = tally(metrics, learned_values(tuned, hyper), trajectory.reward)
        return OnPolicyState(
            inner,
            environment,
            trajectory,
            add_reward(state.context, jnp.mean(trajectory.reward)),
            jax.tree.map(jnp.add, state.tally, seen),
        ), {}

    return lifted


def _no_tally(
    rule: Rule, tuned: Tuned, inner: InnerState, trajectory: Trajectory, hyper: Hyperparameters
) -> Metrics:
    """The tally before the first update."""

    def first() -> Metrics:
        metrics = rule(inner, trajectory, hyper)[1]
        return tally(metrics, learned_values(tuned, hyper), trajectory.reward)

    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(first))


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
