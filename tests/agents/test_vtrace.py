"""V-trace against its formula, against rlax, and at the cuts inside an unroll."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.vtrace import vtrace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of tensorflow_probability, which rlax imports
    import rlax


def _case(seed: int, steps: int, batch: int, *, cuts: bool = True, deviation: float = 1.0):
    rng = np.random.default_rng(seed)
    valid = np.ones((steps, batch), bool)
    discount = rng.uniform(0.5, 1.0, (steps, batch))
    if cuts:
        discount = np.where(rng.random((steps, batch)) < 0.15, 0.0, discount)
        valid = rng.random((steps, batch)) > 0.2
    return {
        "value": rng.normal(size=(steps + 1, batch)),
        "reward": rng.normal(size=(steps, batch)),
        "discount": discount,
        "log_ratio": deviation * rng.normal(size=(steps, batch)),
        "valid": valid,
    }


def _literal(value, reward, discount, log_ratio, valid, *, lambda_, leak_rho, leak_c):
    """Espeholt et al. 2018, eq. 1, as the double sum it is written as; one environment a time.

    v_s = V(x_s) + sum_{t >= s} (prod_{i=s}^{t-1} gamma_i c_i) delta_t, where the sum ends before
    the first step that is not valid, and an invalid step has no target but its value.
    """
    steps, batch = reward.shape
    ratio = np.exp(log_ratio)
    rho = leak_rho * np.minimum(1.0, ratio) + (1.0 - leak_rho) * np.minimum(10.0, ratio)
    c = lambda_ * (leak_c * np.minimum(1.0, ratio) + (1.0 - leak_c) * np.minimum(2.0, ratio))
    target = np.array(value[:-1])
    for b in range(batch):
        for s in range(steps):
            for t in range(s, steps):
                if not valid[t, b]:
                    break
                product = 1.0
                for i in range(s, t):
                    product *= discount[i, b] * c[i, b]
                delta = reward[t, b] + discount[t, b] * value[t + 1, b] - value[t, b]
                target[s, b] += product * rho[t, b] * delta
    following = np.concatenate([target[1:], value[-1:]])
    advantage = rho * (reward + discount * following - value[:-1])
    return target, np.where(valid, advantage, 0.0)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("lambda_", [1.0, 0.6])
@pytest.mark.parametrize(("leak_rho", "leak_c"), [(1.0, 1.0), (0.7, 0.3), (0.0, 0.0)])
def test_equals_the_formula(x64, steps, batch, lambda_, leak_rho, leak_c):
    case = _case(steps * 10 + batch, steps, batch)
    settings = {"lambda_": lambda_, "leak_rho": leak_rho, "leak_c": leak_c}
    ours = vtrace(**{k: jnp.asarray(v) for k, v in case.items()}, **settings)
    target, advantage = _literal(**case, **settings)
    np.testing.assert_allclose(ours.value, target, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours.advantage, advantage, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("leak", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("lambda_", [1.0, 0.8])
def test_equals_rlax_forwards_and_backwards(x64, leak, lambda_):
    """Values and derivatives with respect to the rewards; rlax knows neither cuts nor two leaks,
    and does not bound what a leak lets through, so the weights stay below 2 here.

    Its advantage mixes lambda in a second time (v_{t+1} becomes lambda v_{t+1} + (1 - lambda)
    V(x_{t+1})), which the paper does not, so advantages are compared at lambda 1 only.
    """
    case = {k: jnp.asarray(v) for k, v in _case(3, 6, 1, cuts=False, deviation=0.2).items()}
    assert 1.0 < jnp.exp(case["log_ratio"]).max() < 2.0

    def compared(value, advantage):
        return (value, advantage) if lambda_ == 1.0 else (value,)

    def ours(reward):
        result = vtrace(**{**case, "reward": reward}, lambda_=lambda_, leak_rho=leak, leak_c=leak)
        return compared(result.value[:, 0], result.advantage[:, 0])

    def theirs(reward):
        value, discount = case["value"][:, 0], case["discount"][:, 0]
        result = rlax.leaky_vtrace_td_error_and_advantage(
            value[:-1],
            value[1:],
            reward[:, 0],
            discount,
            jnp.exp(case["log_ratio"][:, 0]),
            alpha=leak,
            lambda_=lambda_,
            stop_target_gradients=False,
        )
        return compared(result.errors + value[:-1], result.pg_advantage)

    reward = case["reward"]
    weights = jnp.arange(6.0)
    for a, b in zip(ours(reward), theirs(reward), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)

    def derivative(function):
        return jax.grad(lambda r: sum(jnp.vdot(weights, x) for x in function(r)))(reward)

    np.testing.assert_allclose(derivative(ours), derivative(theirs), rtol=1e-9)


@pytest.mark.parametrize("cut", ["time limit", "ending"])
def test_nothing_before_a_cut_depends_on_what_follows(cut):
    """Bitwise: everything after the cut is replaced, nothing before it may move."""
    case = _case(5, 8, 2, cuts=False)
    end = 3  # step 3 is the last of its episode, step 4 the auto-reset
    case["valid"][end + 1] = False
    case["discount"][end] = 1.0 if cut == "time limit" else 0.0
    other = {k: v.copy() for k, v in case.items()}
    rng = np.random.default_rng(9)
    for key in ("reward", "log_ratio"):
        other[key][end + 1 :] = 100 * rng.normal(size=other[key][end + 1 :].shape)
    other["discount"][end + 1 :] = 0.1
    other["value"][end + 2 :] = 100.0  # observation end + 1 is the episode's own last one
    a, b = (vtrace(**{k: jnp.asarray(v) for k, v in c.items()}, leak_c=0.5) for c in (case, other))
    np.testing.assert_array_equal(a.value[: end + 1], b.value[: end + 1])
    np.testing.assert_array_equal(a.advantage[: end + 1], b.advantage[: end + 1])
    assert not np.array_equal(a.value[end + 2 :], b.value[end + 2 :])


def test_a_time_limit_bootstraps_and_an_ending_does_not():
    value = jnp.asarray([[1.0], [2.0], [5.0], [7.0]])
    zeros, ones = jnp.zeros((3, 1)), jnp.ones((3, 1))
    valid = jnp.asarray([[True], [True], [False]])
    cut = vtrace(value, ones, ones, zeros, valid)
    np.testing.assert_allclose(cut.value[:, 0], [1 + 1 + 5, 1 + 5, 5])
    ended = vtrace(value, ones, ones.at[1].set(0.0), zeros, valid)
    np.testing.assert_allclose(ended.value[:, 0], [1 + 1, 1, 5])


@pytest.mark.parametrize("ratio", [1e3, np.inf])
def test_extreme_ratios_explode_no_trace(ratio):
    """20 steps of weights that are as large as they can be; unbounded ones made targets of 1e21."""
    ones = jnp.ones((20, 2))
    case = {
        "value": jnp.zeros((21, 2)),
        "reward": ones,
        "discount": ones,
        "log_ratio": jnp.log(ratio) * ones,
        "valid": ones.astype(bool),
    }

    def largest(leak):
        return vtrace(**case, leak_rho=leak, leak_c=leak).value.max()

    # The first target: rewards weighed by rho <= 0.99 + 0.1 and traces of c <= 0.99 + 0.02.
    bound = 1.09 * sum(1.01**t for t in range(20))
    np.testing.assert_allclose(largest(0.99), bound, rtol=1e-5)
    np.testing.assert_allclose(largest(1.0), 20.0, rtol=1e-6)
    assert largest(0.0) < 1.1e7  # 10 * 2**20
    for leak in (0.0, 0.99, 1.0):
        assert np.isfinite(jax.grad(largest)(leak))
