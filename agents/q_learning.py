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

from agents.matching import Matching, Point, Weights
from agents.meta_gradient import Distance, LastUpdate, MetaOutput, Update
from agents.meta_network import RewardContext, add_reward, init_context, tuned_by_rewards
from agents.meta_parameters import Tuned, learned_values
from agents.networks import DenseNetwork, NetworkOutput, Params
from agents.on_policy import tally
from agents.optimizers import TargetStep, make_optimizer
from agents.parts import Parts, parts_of_own_play
from agents.q_lambda import Transition, choose, direction, epsilon_greedy
from agents.settings import Settings
from agents.trajectory import Trajectory
from agents.update import InnerState, Metrics, init_inner_state


class QLambdaState(NamedTuple):
    """All that one step of one seed changes."""

    inner: InnerState
    trace: Params  # eligibility
    environment: Any
    epsilon: jax.Array  # of the last action
    trajectory: Trajectory  # [M, 1], the newest steps
    context: RewardContext  # of all rewards up to now
    tally: Metrics  # sums since they were last cleared


# (environment's state, action, draws [1]) -> (environment's state, its reward and discount)
EnvironmentStep = Callable[[Any, jax.Array, jax.Array], tuple[Any, Any]]


def q_lambda_parts(
    settings: Settings,
    network: DenseNetwork,
    reset: Callable[[jax.Array], Any],
    observe: Callable[[Any], jax.Array],
    step: EnvironmentStep,
) -> Parts:
    """The parts of Q(lambda), which plays and learns from one step an update.

    Args:
        settings: of the agent; its optimiser takes the negative direction of Q(lambda) as a
            gradient.
        network: q, from observations.
        reset: from a key to the environment's first state.
        observe: from the environment's state.
        step: of the environment.
    """
    optimizer = make_optimizer(settings.optimizer)
    tuned = tuned_by_rewards(settings)
    keep = settings.meta.bootstrap_steps - 1 if settings.learned else 1  # newest steps

    def init(key: jax.Array) -> tuple[QLambdaState, Any]:
        for_network, for_environment, for_weights = jax.random.split(key, 3)
        first = reset(for_environment)
        meta_params = tuned.init(for_weights)
        context = init_context(settings.meta.context_length)
        learned = learned_values(tuned, tuned.values(meta_params, context))
        inner = init_inner_state(network.init(for_network), optimizer)
        observation = observe(first)
        actions = network.apply(inner.params, observation).shape[-1]
        sums = tally({"loss/total": jnp.zeros(())}, learned, jnp.zeros(()))
        return QLambdaState(
            inner,
            jax.tree.map(jnp.zeros_like, inner.params),
            first,
            jnp.zeros((), observation.dtype),
            _no_steps(observation, actions, keep),
            context,
            jax.tree.map(jnp.zeros_like, sums),
        ), meta_params

    def update(
        state: QLambdaState, key: jax.Array, meta_params: Any
    ) -> tuple[QLambdaState, Metrics]:
        hyper = tuned.values(meta_params, state.context)
        params, opt_state = state.inner
        observation = observe(state.environment)
        q = network.apply(params, observation)
        uniform = jax.random.uniform(key, (3,))
        epsilon = jnp.asarray(hyper["epsilon"])
        action = choose(q, epsilon, uniform[:2])
        environment, reply = step(state.environment, action, uniform[2:])
        reward, following = reply.reward, observe(environment)
        transition = Transition(observation, action, reward, reply.discount, following)
        previous_discount = state.trajectory.discount[-1, 0]
        move, trace, error = direction(
            network, params, state.trace, previous_discount, transition, hyper
        )
        changes, opt_state = optimizer.update(jax.tree.map(jnp.negative, move), opt_state, params)
        scale = hyper["learning_rate_scale"]
        loss = {"loss/total": 0.5 * jnp.square(error)}
        seen = tally(loss, learned_values(tuned, hyper), reward)
        return QLambdaState(
            InnerState(jax.tree.map(lambda p, c: p + scale * c, params, changes), opt_state),
            trace,
            environment,
            epsilon,
            _append(state.trajectory, transition, epsilon_greedy(q, epsilon)),
            add_reward(state.context, reward),
            jax.tree.map(jnp.add, state.tally, seen),
        ), {}

    def outer_update(step: TargetStep) -> LastUpdate:
        """Whatever the optimiser: the target has the parameters as they are, and acts greedily."""
        del step
        return become_greedy

    def distance(matching: Matching, weights: Weights) -> Distance:
        return match_policies(network, matching, weights)

    return parts_of_own_play(
        init,
        update,
        outer_update,
        distance,
        tuned,
        report=lambda output: {"meta/greedy_changes": greedy_changes(network, output)},
    )


def explore(tuned: Tuned) -> Update:
    """Builds what stands in an update's place: it sets epsilon and changes nothing else."""

    def set_epsilon(
        state: QLambdaState, unused: Any, meta_params: Any
    ) -> tuple[QLambdaState, Metrics]:
        del unused
        epsilon = jnp.asarray(tuned.values(meta_params, state.context)["epsilon"])
        return state._replace(epsilon=epsilon), {}

    return set_epsilon


def become_greedy(initial: QLambdaState, state: QLambdaState, unused: Any) -> QLambdaState:
    """The target's last step: no exploration is left."""
    del initial, unused
    return state._replace(epsilon=jnp.zeros_like(state.epsilon))


def match_policies(network: DenseNetwork, matching: Matching, weights: Weights) -> Distance:
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


def greedy_changes(network: DenseNetwork, output: MetaOutput) -> jax.Array:
    """Share of matched states whose greedy action changes on the way to the target.

    Epsilon rests where it is that share over c = 1 - 1/A: the divergence of the epsilon-greedy from
    the greedy policy has the derivative c / (1 - c epsilon) where the greedy actions agree, and
    -1 / epsilon where they do not. With a share p of the latter, its mean is 0 at epsilon = p / c.
    """
    target, learner = output.target.state, output.state
    # All rows, as `match_policies` takes them: the products are then computed once.
    seen = target.trajectory.observation
    before, after = (network.apply(s.inner.params, seen)[:-1] for s in (learner, target))
    changed = jnp.argmax(before, axis=-1) != jnp.argmax(after, axis=-1)
    return jnp.mean(changed.astype(before.dtype))


def _no_steps(observation: jax.Array, actions: int, keep: int) -> Trajectory:
    """The trajectory before the first step: M rows of which none is valid.

    Args:
        observation: [F], the first one.
        actions: A.
        keep: M.
    """
    rows = jnp.zeros((keep, 1), observation.dtype)
    return Trajectory(
        observation=jnp.broadcast_to(observation, (keep + 1, 1, *observation.shape)),
        action=rows.astype(jnp.int32),
        reward=rows,
        discount=rows,
        behaviour_logits=jnp.zeros((keep, 1, actions), observation.dtype),
        valid=rows > 0.0,
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
