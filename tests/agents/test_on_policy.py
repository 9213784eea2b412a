"""The update that plays its own experience: what flows through it, and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actors.on_device import make_two_colours, make_unroll
from agents import actor_critic
from agents.matching import MATCHING, Weights, compare
from agents.meta_gradient import bootstrap_target, bootstrapped_meta_gradient
from agents.meta_network import add_reward, init_context, make_contextual, without_context
from agents.meta_parameters import Learned, init_meta_params
from agents.networks import make_dense_network, make_network
from agents.on_policy import (
    init_on_policy_state,
    match_where_played,
    on_policy,
    plain_last_update,
)
from agents.optimizers import make_optimizer
from agents.update import init_inner_state, make_update
from tests.small import HYPER, OUTER, row

LEARNED = {"entropy_cost": Learned(0.4, 1.0), "discount": Learned(0.9, 1.0)}
LOSS = actor_critic.averaged(actor_critic.loss)
OBJECTIVE = (actor_critic.make_one_step_targets, LOSS)
VTRACE = (actor_critic.make_targets, LOSS)
STEPS = 6
# Unclipped importance weights: clipped ones have a kink at 1, which is where they stand here.
FIXED = {**HYPER, "vtrace_leak": 0.0}


class Problem:
    """The grid world's agent, small, with two learned hyper-parameters."""

    def __init__(self, matching="kl", objective=OBJECTIVE, context_length=3):
        environment = make_two_colours(50, "object", 0.0)
        self.network = make_network("shallow", 4, (30,), np.float32)
        meta_network = make_dense_network(3, (5,), len(LEARNED), zero_output=True)
        self.values = (
            make_contextual(meta_network, FIXED, LEARNED, normalised=True)
            if context_length
            else without_context(FIXED, LEARNED)
        )
        optimizer = make_optimizer("sgd", 0.5)
        self.update = make_update(self.network, *objective, optimizer, self.values)
        self.unroll = make_unroll(environment, self.network, STEPS)
        self.lifted = on_policy(self.update, self.unroll, self.describe)
        rule = make_update(self.network, *objective, optimizer, lambda _: OUTER)
        last_update = plain_last_update(rule, lambda inner: inner.opt_state)
        self.target = bootstrap_target(self.lifted, last_update, written_out=0)
        self.match = match_where_played(self.network, MATCHING[matching], Weights())
        keys = iter(jax.random.split(jax.random.key(0), 20))

        def random(x):
            return jax.random.normal(next(keys), x.shape)

        # Not the zero output layer of the start: every weight should matter.
        self.weights = jax.tree.map(random, meta_network.init(next(keys)))
        if not context_length:
            self.weights = init_meta_params(LEARNED, 1)
        params = jax.tree.map(lambda x: x + 0.1 * random(x), self.network.init(next(keys)))
        context = init_context(max(1, context_length))
        for reward in (0.3, -0.2, 0.1):
            context = add_reward(context, jnp.asarray(reward))
        self.state = init_on_policy_state(
            init_inner_state(params, optimizer),
            environment.reset(next(keys)),
            self.update,
            self.unroll,
            self.describe,
            (self.weights, context),
            next(keys),
        )

    def describe(self, inputs):
        return {name: self.values(inputs)[name] for name in LEARNED}

    def meta_gradient(self, inner_steps, bootstrap_steps, **options):
        keys = jax.random.split(jax.random.key(7), inner_steps + bootstrap_steps)
        function = bootstrapped_meta_gradient(self.lifted, self.target, self.match, **options)
        return jax.jit(function)(
            self.weights, self.state, keys[:inner_steps], keys[inner_steps:]
        ), keys

    def record(self, keys):
        """The trajectories and contexts of a series of updates, played once."""
        state, played = self.state, []
        for key in keys:
            played.append((state.trajectory, state.context))
            state, _ = jax.jit(self.lifted)(state, key, self.weights)
        return state, played


@pytest.mark.parametrize(
    ("matching", "objective", "inner_steps", "bootstrap_steps", "context_length"),
    [
        ("kl", OBJECTIVE, 1, 2, 3),
        pytest.param("kl", OBJECTIVE, 3, 4, 3, marks=pytest.mark.slow),
        ("l2", OBJECTIVE, 3, 1, 3),
        ("kl_value", OBJECTIVE, 3, 4, 3),
        ("kl", VTRACE, 3, 4, 3),
        ("kl", OBJECTIVE, 3, 4, 0),
    ],
)
def test_finite_differences_with_everything_played_held_fixed(
    x64, matching, objective, inner_steps, bootstrap_steps, context_length
):
    """Actions, rewards, contexts and the policy that acted are data: the reference replays them.

    V-trace has the acting policy in its weights, so there the two would differ if what is played
    were not stopped.
    """
    problem = Problem(matching, objective, context_length)
    (gradients, output), keys = problem.meta_gradient(inner_steps, bootstrap_steps)
    _, played = problem.record(keys[:inner_steps])
    goal = output.target.state

    @jax.jit
    def loss(weights):
        inner = problem.state.inner
        for trajectory, context in played:
            inner, _ = problem.update(inner, trajectory, (weights, context))
        return compare(
            problem.network,
            MATCHING[matching],
            Weights(),
            goal.inner.params,
            inner.params,
            goal.trajectory,
        )

    np.testing.assert_allclose(loss(problem.weights), output.loss, rtol=1e-9)
    flat, unravel = jax.flatten_util.ravel_pytree(problem.weights)
    exact, _ = jax.flatten_util.ravel_pytree(gradients)
    seen = 0
    for index in range(flat.size):
        h = 1e-5
        up, down = (loss(unravel(flat.at[index].add(d))) for d in (h, -h))
        expected = float(up - down) / (2 * h)
        np.testing.assert_allclose(exact[index], expected, rtol=2e-4, atol=1e-9)
        seen += abs(expected) > 1e-6
    assert seen > flat.size / 3


def test_the_target_is_the_further_updates_and_one_on_the_plain_objective(x64):
    """Played with the same keys by hand; the learner keeps what the target has played."""
    problem = Problem()
    (_, output), keys = problem.meta_gradient(2, 3)
    state, _ = problem.record(keys[:4])  # K = 2 and L - 1 = 2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9),
        output.target.bootstrapped._replace(environment=None),
        state._replace(environment=None),
    )
    goal = output.target.state
    optimizer = make_optimizer("sgd", 0.5)
    rule = make_update(problem.network, *OBJECTIVE, optimizer, lambda _: OUTER)
    expected, _ = rule(state.inner, state.trajectory, {})
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12),
        goal.inner.params,
        expected.params,
    )
    np.testing.assert_array_equal(goal.trajectory.action, state.trajectory.action)


def test_recomputing_or_scanning_gives_the_same_gradient(x64):
    problem = Problem()
    (expected, _), _ = problem.meta_gradient(3, 4)
    for options in ({"recompute": False}, {"recompute": False, "written_out": 0}):
        (gradients, _), _ = problem.meta_gradient(3, 4, **options)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-15),
            gradients,
            expected,
        )


def test_the_tally_adds_up(x64):
    problem = Problem()
    keys = jax.random.split(jax.random.key(3), 4)
    state, played = problem.record(keys)
    rewards = [float(jnp.sum(trajectory.reward)) for trajectory, _ in played[1:]]
    rewards.append(float(jnp.sum(state.trajectory.reward)))
    assert state.tally["updates"] == 4
    np.testing.assert_allclose(state.tally["reward"], sum(rewards), rtol=1e-6)
    costs = [problem.values((problem.weights, c))["entropy_cost"] for _, c in played]
    np.testing.assert_allclose(state.tally["meta/entropy_cost"], sum(costs), rtol=1e-9)
    mean = np.mean(np.asarray(row(state.trajectory.reward, slice(None))), dtype=np.float64)
    np.testing.assert_allclose(state.context.recent[-1], mean, rtol=1e-9)
