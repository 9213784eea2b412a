"""The update that plays its own experience: what flows through it, and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actors.environments.device import make_two_colours
from actors.on_device import make_unroll
from agents import actor_critic
from agents.algorithm import make_algorithm
from agents.hyperparameters import Learned
from agents.matching import MATCHING, Weights, compare
from agents.meta_network import add_reward
from agents.networks import Network, make_network
from agents.objectives import OBJECTIVES
from agents.on_policy import on_policy_parts
from agents.optimizers import make_optimizer
from agents.settings import OptimizerSettings
from agents.update import make_rule
from tests.small import OUTER, row, small_settings

LEARNED = {"entropy_cost": Learned(0.4, 1.0), "discount": Learned(0.9, 1.0)}
LOSS = actor_critic.reduced(actor_critic.loss, "mean")
ONE_STEP, VTRACE = actor_critic.make_one_step_targets, actor_critic.make_targets
STEPS = 6
OPTIMIZER = make_optimizer(OptimizerSettings("sgd", 0.5))


class Problem:
    """The grid world's agent as `bmg train` builds it, small, with two learned hyper-parameters."""

    def __init__(self, matching="kl", context_length=3, **options):
        settings = small_settings(
            algorithm="bmg",
            optimizer=OptimizerSettings("sgd", 0.5),
            loss="mean",
            learned=LEARNED,
        )
        meta = settings.meta._replace(
            matching=matching,
            keep_bootstrapped=True,
            context_length=context_length,
            hidden=[5],
        )
        # Unclipped importance weights: clipped ones have a kink at 1, where they stand here.
        settings = settings._replace(fixed={**settings.fixed, "vtrace_leak": 0.0}, meta=meta)
        environment = make_two_colours(50, "object", 0.0)
        network = make_network("shallow", 4, (30,), np.float32)
        keys = iter(jax.random.split(jax.random.key(0), 20))

        def random(x):
            return jax.random.normal(next(keys), x.shape)

        # Not the first weights, whose output layers are small or zero: every one should matter.
        params = jax.tree.map(lambda x: x + 0.1 * random(x), network.init(next(keys)))
        self.network = Network(lambda key: params, network.apply)
        unroll = make_unroll(environment, self.network, STEPS)
        parts = on_policy_parts(settings, self.network, environment.reset, unroll)
        parts = parts._replace(**options)
        self.values = parts.tuned.values
        state, weights = parts.init(next(keys))
        self.weights = jax.tree.map(random, weights) if context_length else weights
        context = state.context
        for reward in (0.3, -0.2, 0.1):
            context = add_reward(context, jnp.asarray(reward))
        self.state = state._replace(context=context)
        self.lifted, _, _, self.gradient = make_algorithm(parts, settings).meta

    def meta_gradient(self, inner_steps, bootstrap_steps):
        keys = jax.random.split(jax.random.key(7), inner_steps + bootstrap_steps)
        inputs = keys[:inner_steps], keys[inner_steps:]
        return jax.jit(self.gradient)(self.weights, self.state, *inputs), keys

    def record(self, keys):
        """The trajectories and contexts of a series of updates, played once."""
        state, played = self.state, []
        for key in keys:
            played.append((state.trajectory, state.context))
            state, _ = jax.jit(self.lifted)(state, key, self.weights)
        return state, played


@pytest.mark.ci
@pytest.mark.parametrize(
    ("matching", "make_targets", "inner_steps", "bootstrap_steps", "context_length"),
    [
        ("kl", ONE_STEP, 1, 2, 3),
        pytest.param("kl", ONE_STEP, 3, 4, 3, marks=pytest.mark.slow),
        ("l2", ONE_STEP, 3, 1, 3),
        ("kl_value", ONE_STEP, 3, 4, 3),
        ("kl", VTRACE, 3, 4, 3),
        ("kl", ONE_STEP, 3, 4, 0),
    ],
)
def test_finite_differences_with_everything_played_held_fixed(
    x64, monkeypatch, matching, make_targets, inner_steps, bootstrap_steps, context_length
):
    """Actions, rewards, contexts and the policy that acted are data: the reference replays them.

    V-trace has the acting policy in its weights, so there the two would differ if what is played
    were not stopped.
    """
    replaced = OBJECTIVES["actor_critic"]._replace(own_targets=make_targets)
    monkeypatch.setitem(OBJECTIVES, "actor_critic", replaced)
    problem = Problem(matching, context_length)
    rule = make_rule(problem.network, make_targets, LOSS, OPTIMIZER)
    (gradients, output), keys = problem.meta_gradient(inner_steps, bootstrap_steps)
    _, played = problem.record(keys[:inner_steps])
    goal = output.target.state

    @jax.jit
    def loss(weights):
        inner = problem.state.inner
        for trajectory, context in played:
            inner, _ = rule(inner, trajectory, problem.values(weights, context))
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


@pytest.mark.ci
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
    rule = make_rule(problem.network, ONE_STEP, LOSS, OPTIMIZER)
    expected, _ = rule(state.inner, state.trajectory, OUTER)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12),
        goal.inner.params,
        expected.params,
    )
    np.testing.assert_array_equal(goal.trajectory.action, state.trajectory.action)


@pytest.mark.ci
def test_recomputing_or_scanning_gives_the_same_gradient(x64):
    (expected, _), _ = Problem(recompute=True, written_out=8).meta_gradient(3, 4)
    for options in ({"recompute": False, "written_out": 8}, {}):
        (gradients, _), _ = Problem(**options).meta_gradient(3, 4)
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
    costs = [problem.values(problem.weights, c)["entropy_cost"] for _, c in played]
    np.testing.assert_allclose(state.tally["meta/entropy_cost"], sum(costs), rtol=1e-9)
    mean = np.mean(np.asarray(row(state.trajectory.reward, slice(None))), dtype=np.float64)
    np.testing.assert_allclose(state.context.recent[-1], mean, rtol=1e-9)
