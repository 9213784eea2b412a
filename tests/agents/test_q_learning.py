"""Q(lambda) that learns its exploration: epsilon is differentiated, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actors.environments.device import make_two_colours
from agents.algorithm import make_algorithm
from agents.hyperparameters import Learned
from agents.networks import make_dense_network
from agents.on_policy import tally
from agents.optimizers import make_optimizer
from agents.q_lambda import Transition, direction, epsilon_greedy
from agents.q_learning import greedy_changes, q_lambda_parts
from agents.settings import OptimizerSettings
from tests.small import HYPER, small_settings

FURTHER = 12  # L - 1


class Problem:
    """The agent as `bmg train` builds it, small, with a short memory."""

    def __init__(self, collection_discount=1.0, context_length=5):
        self.environment = make_two_colours(20, "object", collection_discount)
        self.network = make_dense_network(30, (16,), 4)
        settings = small_settings(
            algorithm="q_lambda_bmg",
            optimizer=OptimizerSettings("adam", 3e-2, epsilon=1e-4, gradient_decay=0.9),
            learned={"epsilon": Learned(0.4, 1.0)},
        )
        meta = settings.meta._replace(
            bootstrap_steps=FURTHER + 1,
            matching="kl",
            keep_bootstrapped=True,
            context_length=context_length,
            hidden=[6],
        )
        fixed = {**HYPER, "discount": 0.9, "vtrace_lambda": 0.8}
        settings = settings._replace(fixed=fixed, meta=meta)
        play = self.environment.reset, self.environment.observe, self.environment.step
        parts = q_lambda_parts(settings, self.network, *play)
        self.optimizer = make_optimizer(settings.optimizer)
        self.values, self.update = parts.tuned.values, parts.update
        self.gradient = make_algorithm(parts, settings).meta.gradient
        # With these weights some greedy actions change in a cycle, and some do not.
        keys = iter(jax.random.split(jax.random.key(1001), 10))
        state, weights = parts.init(next(keys))
        self.weights = (
            jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), weights)
            if context_length
            else weights
        )
        self.state, _ = self.play(state, jax.random.split(jax.random.key(1), 40))

    def play(self, state, keys):
        """The states after each step, in a plain loop."""
        step, states = jax.jit(self.update), []
        for key in keys:
            state, _ = step(state, key, self.weights)
            states.append(state)
        return state, states

    def meta_gradient(self, keys):
        """Of the cycle that plays `keys` but the last, and what else it gives."""
        return jax.jit(self.gradient)(self.weights, self.state, keys[:1], keys)

    def greedy_actions(self, keys):
        """Before and after the cycle, at the states that it goes through; from a plain loop."""
        last, states = self.play(self.state, keys[:FURTHER])
        seen = [self.environment.observe(s.environment) for s in (self.state, *states[:-1])]
        params = self.state.inner.params, last.inner.params
        q = [np.asarray(self.network.apply(p, jnp.stack(seen))) for p in params]
        return [np.argmax(values, axis=-1) for values in q]


@pytest.mark.ci
def test_one_number_gets_the_gradient_of_the_formula(x64):
    """Without context. By hand, from the share p of states whose greedy action changes."""
    problem, shares = Problem(context_length=0), []
    for number in range(4):
        keys = jax.random.split(jax.random.key(20 + number), FURTHER + 1)
        gradients, output = problem.meta_gradient(keys)
        before, after = problem.greedy_actions(keys)
        p, epsilon, c = np.mean(before != after), 0.4, 1 - 1 / 4
        of_epsilon = (1 - p) * c / (1 - c * epsilon) - p / epsilon
        expected = of_epsilon * epsilon * (1 - epsilon)  # the sigmoid's
        assert list(gradients) == ["epsilon"]
        np.testing.assert_allclose(gradients["epsilon"], expected, rtol=1e-9)
        # Towards the rest point p / c, whichever side it is on.
        assert np.sign(gradients["epsilon"]) == np.sign(epsilon - p / c)
        np.testing.assert_allclose(greedy_changes(problem.network, output), p, rtol=1e-12)
        shares.append(p)
    assert min(shares) < max(shares)
    assert any(0 < p < 1 for p in shares)


@pytest.mark.ci
def test_the_meta_gradient_is_that_of_epsilon_alone(x64):
    """By hand: the greedy actions after L - 1 more updates, at the states they went through."""
    problem = Problem()
    keys = jax.random.split(jax.random.key(2), FURTHER + 1)
    gradients, output = problem.meta_gradient(keys)
    last, states = problem.play(problem.state, keys[:FURTHER])
    observed = [problem.environment.observe(s.environment) for s in (problem.state, *states)]
    observed = jnp.stack(observed[:FURTHER])
    greedy = jnp.argmax(problem.network.apply(last.inner.params, observed), axis=-1)
    q = problem.network.apply(problem.state.inner.params, observed)
    assert 0 < np.sum(greedy == jnp.argmax(q, axis=-1)) < FURTHER  # some agree, some do not

    def loss(weights):
        epsilon = problem.values(weights, problem.state.context)["epsilon"]
        log_policy = epsilon_greedy(q, epsilon)
        return -jnp.mean(jnp.take_along_axis(log_policy, greedy[:, None], axis=-1))

    np.testing.assert_allclose(output.loss, loss(problem.weights), rtol=1e-9)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-14),
        gradients,
        jax.grad(loss)(problem.weights),
    )
    flat, unravel = jax.flatten_util.ravel_pytree(problem.weights)
    exact, _ = jax.flatten_util.ravel_pytree(gradients)
    assert np.linalg.norm(exact) > 1e-4
    for index in range(flat.size):
        up, down = (loss(unravel(flat.at[index].add(d))) for d in (1e-6, -1e-6))
        np.testing.assert_allclose(exact[index], (up - down) / 2e-6, rtol=1e-5, atol=1e-8)
    # The learner goes on from where the target got to, without its greediness.
    bootstrapped = output.target.bootstrapped
    jax.tree.map(np.testing.assert_array_equal, bootstrapped.inner.params, last.inner.params)
    assert bootstrapped.epsilon > 0.0


def test_a_step_is_that_of_the_formula_with_averaged_gradients_and_adam(x64):
    """Moving average of the gradients (0.9), then Adam, in NumPy, from the directions."""
    problem = Problem(collection_discount=0.0)
    zero = jax.tree.map(np.zeros_like, problem.state.inner.params)
    state = problem.state._replace(
        inner=problem.state.inner._replace(opt_state=problem.optimizer.init(zero)),
        trace=jax.tree.map(jnp.zeros_like, zero),
    )
    params, trace = jax.tree.map(np.asarray, state.inner.params), state.trace
    average, first, second = zero, zero, zero
    update, endings = jax.jit(problem.update), 0
    for n, key in enumerate(jax.random.split(jax.random.key(5), 40), start=1):
        before = state
        state, _ = update(state, key, problem.weights)
        endings += float(state.trajectory.discount[-1, 0]) == 0.0
        transition = Transition(
            problem.environment.observe(before.environment),
            state.trajectory.action[-1, 0],
            state.trajectory.reward[-1, 0],
            state.trajectory.discount[-1, 0],
            problem.environment.observe(state.environment),
        )
        hyper = problem.values(problem.weights, before.context)
        previous = before.trajectory.discount[-1, 0]
        move, trace, _ = direction(problem.network, params, trace, previous, transition, hyper)
        average = jax.tree.map(lambda a, m: 0.9 * a - 0.1 * m, average, move)
        first = jax.tree.map(lambda f, a: 0.9 * f + 0.1 * a, first, average)
        second = jax.tree.map(lambda s, a: 0.999 * s + 0.001 * a**2, second, average)
        params = jax.tree.map(
            lambda p, f, s, n=n: (
                p - 3e-2 * (f / (1 - 0.9**n)) / (np.sqrt(s / (1 - 0.999**n)) + 1e-4)
            ),
            params,
            first,
            second,
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-10),
            state.inner.params,
            params,
        )
        np.testing.assert_allclose(state.epsilon, hyper["epsilon"])
    assert 0 < endings < 40
    assert set(state.tally) == set(tally({"loss/total": 0.0}, {"epsilon": 0.0}, jnp.zeros(())))
