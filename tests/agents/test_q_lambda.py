"""Q(lambda) against a table in NumPy; the epsilon-greedy policy and its derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.networks import make_dense_network
from agents.policies import kl_divergence
from agents.q_lambda import Transition, choose, direction, epsilon_greedy

STATES, ACTIONS = 5, 3


def test_linear_network_on_one_hot_states_is_the_table_of_peng_and_williams(x64):
    """Peng and Williams 1994, section 2.2: the algorithm as printed, with a table, in episodes."""
    discount, lambda_, rate = 0.9, 0.7, 0.1
    random = np.random.default_rng(0)
    network = make_dense_network(STATES, (), ACTIONS)
    params = jax.tree.map(
        lambda x: jnp.asarray(random.normal(size=x.shape)), network.init(jax.random.key(0))
    )
    params["output"]["b"] = jnp.zeros(ACTIONS)
    table = np.asarray(params["output"]["w"]).copy()
    trace, previous = jax.tree.map(jnp.zeros_like, params), jnp.asarray(1.0)
    eligibility = np.zeros((STATES, ACTIONS))
    hyper = {"discount": discount, "vtrace_lambda": lambda_}
    one_hot, state, endings = np.eye(STATES), 0, 0
    for _ in range(200):
        action, reward = random.integers(ACTIONS), random.normal()
        following, ends = random.integers(STATES), random.random() < 0.1
        step = Transition(
            jnp.asarray(one_hot[state]),
            jnp.asarray(action),
            jnp.asarray(reward),
            jnp.asarray(0.0 if ends else 1.0),
            jnp.asarray(one_hot[following]),
        )
        move, trace, error = direction(network, params, trace, previous, step, hyper)
        # A bias belongs to no state, so it would not be a table.
        params["output"]["w"] = params["output"]["w"] + rate * move["output"]["w"]

        target = reward if ends else reward + discount * table[following].max()
        of_action, of_state = target - table[state, action], target - table[state].max()
        eligibility *= discount * lambda_
        table += rate * eligibility * of_state
        table[state, action] += rate * of_action
        eligibility[state, action] += 1.0

        np.testing.assert_allclose(error, of_action, rtol=1e-9)
        np.testing.assert_allclose(params["output"]["w"], table, rtol=1e-9)
        np.testing.assert_allclose(trace["output"]["w"], eligibility, rtol=1e-9, atol=1e-300)
        if ends:
            eligibility[:], endings = 0.0, endings + 1
        state, previous = following, step.discount
    assert endings > 5


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_probabilities(x64, epsilon):
    q = jnp.asarray([[0.1, 0.9, -1.0, 0.5], [2.0, 0.0, 0.0, 0.0]])
    expected = np.full((2, 4), epsilon / 4)
    expected[[0, 1], [1, 0]] += 1.0 - epsilon
    np.testing.assert_allclose(
        jnp.exp(epsilon_greedy(q, jnp.asarray(epsilon))), expected, atol=1e-9
    )


def test_actions_are_drawn_from_those_probabilities():
    q, epsilon = jnp.asarray([0.1, 0.9, -1.0, 0.5]), jnp.asarray(0.4)
    uniform = jax.random.uniform(jax.random.key(0), (40_000, 2))
    action = jax.vmap(lambda u: choose(q, epsilon, u))(uniform)
    share = np.bincount(action, minlength=4) / len(action)
    np.testing.assert_allclose(share, [0.1, 0.7, 0.1, 0.1], atol=0.01)
    assert int(choose(q, jnp.asarray(1.0), jnp.asarray([0.0, np.nextafter(np.float32(1), 0)]))) == 3


@pytest.mark.parametrize("agree", [True, False])
def test_derivative_of_the_divergence_from_the_greedy_policy(x64, agree):
    """By hand: (1 - 1/A) / (1 - e + e/A) where the greedy actions agree, else -1/e."""
    epsilon, actions = 0.3, 4
    learner = jnp.asarray([0.1, 0.9, -1.0, 0.5])
    target = epsilon_greedy(learner if agree else -learner, jnp.asarray(0.0))
    derivative = jax.grad(lambda e: kl_divergence(target, epsilon_greedy(learner, e)))(epsilon)
    share = 1.0 - epsilon + epsilon / actions
    expected = (1.0 - 1.0 / actions) / share if agree else -1.0 / epsilon
    np.testing.assert_allclose(derivative, expected, rtol=1e-12)
