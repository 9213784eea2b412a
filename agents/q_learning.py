"""Q(lambda) with an update at every step, and exploration that BMG can learn.

For the meta-gradient the learner is its behaviour policy: `explore` sets epsilon from the
meta-parameters, and is all that is differentiated; the target is the greedy policy of values that
have been updated L - 1 times more. So nothing goes through the update rule (Flennerhag et al.,
arXiv 2109.04504, section 5.1: K = 0).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents.matching import Matching, Point, Weights
from agents.meta_gradient import MetaOutput
from agents.meta_network import Contextual, RewardContext, add_reward
from agents.networks import DenseNetwork, NetworkOutput, Params
from agents.on_policy import tally
from agents.q_lambda import Transition, choose, direction, epsilon_greedy
from agents.trajectory import Trajectory
from agents.update import InnerState, Metrics


class QLambdaState(NamedTuple):
    """All that one step of one seed changes."""

    inner: InnerState
    trace: Params  # eligibility
    environment: Any
    epsilon: jax.Array  # of the last action
    trajectory: Trajectory  # [M, 1], the newest steps
    context: RewardContext  # of all rewards up to now
    tally: Metrics  # sums since they were last cleared


# (environment's state, action, draw) -> (environment's state, reward, discount)
EnvironmentStep = Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array, jax.Array]]


def make_q_update(
    network: DenseNetwork,
    observe: Callable[[Any], jax.Array],
    step: EnvironmentStep,
    optimizer: optax.GradientTransformation,
    values: Contextual,
    describe: Callable[[Any], Metrics],
) -> Callable[[QLambdaState, jax.Array, Any], tuple[QLambdaState, Metrics]]:
    """Builds `update(state, key, meta_params) -> (state, {})`: one step played and learned from.

    Args:
        network: q, from observations.
        observe: from the environment's state.
        step: of the environment.
        optimizer: takes the negative direction of Q(lambda) as a gradient.
        values: hyper-parameters of (meta-parameters, context).
        describe: those that are learned, by name.
    """

    def update(
        state: QLambdaState, key: jax.Array, meta_params: Any
    ) -> tuple[QLambdaState, Metrics]:
        inputs = (meta_params, state.context)
        hyper = values(inputs)
        params, opt_state = state.inner
        observation = observe(state.environment)
        q = network.apply(params, observation)
        uniform = jax.random.uniform(key, (3,))
        epsilon = jnp.asarray(hyper["epsilon"])
        action = choose(q, epsilon, uniform[:2])
        environment, reward, discount = step(state.environment, action, uniform[2])
        following = observe(environment)
        transition = Transition(observation, action, reward, discount, following)
        previous_discount = state.trajectory.discount[-1, 0]
        move, trace, error = direction(
            network, params, state.trace, previous_discount, transition, hyper
        )
        changes, opt_state = optimizer.update(jax.tree.map(jnp.negative, move), opt_state, params)
        scale = hyper["learning_rate_scale"]
        seen = tally({"loss/total": 0.5 * jnp.square(error)}, describe(inputs), reward)
        return QLambdaState(
            InnerState(jax.tree.map(lambda p, c: p + scale * c, params, changes), opt_state),
            trace,
            environment,
            epsilon,
            _append(state.trajectory, transition, epsilon_greedy(q, epsilon)),
            add_reward(state.context, reward),
            jax.tree.map(jnp.add, state.tally, seen),
        ), {}

    return update


def explore(values: Contextual) -> Callable[[QLambdaState, Any, Any], tuple[QLambdaState, Metrics]]:
    """Builds what stands in an update's place: it sets epsilon and changes nothing else."""

    def set_epsilon(
        state: QLambdaState, unused: Any, meta_params: Any
    ) -> tuple[QLambdaState, Metrics]:
        del unused
        epsilon = jnp.asarray(values((meta_params, state.context))["epsilon"])
        return state._replace(epsilon=epsilon), {}

    return set_epsilon


def become_greedy(initial: QLambdaState, state: QLambdaState, unused: Any) -> QLambdaState:
    """The target's last step: no exploration is left."""
    del initial, unused
    return state._replace(epsilon=jnp.zeros_like(state.epsilon))


def match_policies(
    network: DenseNetwork, matching: Matching, weights: Weights
) -> Callable[[QLambdaState, QLambdaState, Any], jax.Array]:
    """A matching function between epsilon-greedy policies at the target's newest steps."""

    def point(state: QLambdaState, observation: jax.Array) -> Point:
        params = state.inner.params
        q = network.apply(params, observation)
        policy = epsilon_greedy(q, state.epsilon)
        return Point(params, NetworkOutput(policy, jnp.max(q, axis=-1)))

    def match(target: QLambdaState, learner: QLambdaState, unused: Any) -> jax.Array:
        del unused
        trajectory = target.trajectory
        points = [point(state, trajectory.observation) for state in (target, learner)]
        return matching(points[0], points[1], trajectory, weights)

    return match


def greedy_changes(network: DenseNetwork) -> Callable[[MetaOutput], jax.Array]:
    """Builds the share of matched states whose greedy action changes on the way to the target.

    Epsilon rests where it is that share over c = 1 - 1/A: the divergence of the epsilon-greedy from
    the greedy policy has the derivative c / (1 - c epsilon) where the greedy actions agree, and
    -1 / epsilon where they do not. With a share p of the latter, its mean is 0 at epsilon = p / c.
    """

    def share(output: MetaOutput) -> jax.Array:
        target, learner = output.target.state, output.state
        # All rows, as `match_policies` takes them: the products are then computed once.
        seen = target.trajectory.observation
        before, after = (network.apply(s.inner.params, seen)[:-1] for s in (learner, target))
        changed = jnp.argmax(before, axis=-1) != jnp.argmax(after, axis=-1)
        return jnp.mean(changed.astype(before.dtype))

    return share


def init_q_state(
    network: DenseNetwork,
    optimizer: optax.GradientTransformation,
    environment: Any,
    observation: jax.Array,
    context: RewardContext,
    learned: Metrics,
    keep: int,
    key: jax.Array,
) -> QLambdaState:
    """The state before the first step.

    Args:
        network: q.
        optimizer: of its parameters.
        environment: its first state.
        observation: [F], of that state.
        context: before the first reward.
        learned: hyper-parameters by name, as `describe` gives them.
        keep: M, newest steps that are kept.
        key: of the network's first weights.
    """
    params = network.init(key)
    actions = network.apply(params, observation).shape[-1]
    rows = jnp.zeros((keep, 1), observation.dtype)
    sums = tally({"loss/total": jnp.zeros(())}, learned, jnp.zeros(()))
    return QLambdaState(
        InnerState(params, optimizer.init(params)),
        jax.tree.map(jnp.zeros_like, params),
        environment,
        jnp.zeros((), observation.dtype),
        Trajectory(
            observation=jnp.broadcast_to(observation, (keep + 1, 1, *observation.shape)),
            action=rows.astype(jnp.int32),
            reward=rows,
            discount=rows,
            behaviour_logits=jnp.zeros((keep, 1, actions), observation.dtype),
            valid=rows > 0.0,
        ),
        context,
        jax.tree.map(jnp.zeros_like, sums),
    )


def _append(trajectory: Trajectory, step: Transition, policy: jax.Array) -> Trajectory:
    """The trajectory without its oldest and with one more step."""
    new = Trajectory(
        observation=step.following,
        action=step.action,
        reward=step.reward,
        discount=step.discount,
        behaviour_logits=policy,
        valid=jnp.asarray(True),
    )
    return jax.tree.map(lambda x, y: jnp.concatenate([x[1:], y[None, None]]), trajectory, new)
