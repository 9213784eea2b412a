"""Auxiliary heads, the outer value and the outer loss: sums of single-head losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import actor_critic, outer_loss
from agents.heads import every_head
from agents.hyperparameters import HYPERPARAMETERS, Learned
from agents.meta_parameters import named_values, single_numbers
from agents.networks import Heads, NetworkOutput, make_network
from agents.objectives import OBJECTIVES
from tests.small import HYPER, OUTER, double, random_batch

OBJECTIVE = OBJECTIVES["actor_critic"]
NETWORK = make_network("shallow", 3, (5,), np.float32, Heads(2, 1, outer_value=True))
PER_HEAD = {
    "discount": jnp.asarray([0.9, 0.8, 0.7]),
    "value_cost": jnp.asarray([0.5, 0.4, 0.3]),
    "entropy_cost": jnp.asarray([0.01, 0.02, 0.03]),
}


def _outputs(batch):
    params = jax.tree.map(lambda x: x.astype(jnp.float64), NETWORK.init(jax.random.key(0)))
    return jax.jit(NETWORK.apply)(params, batch.observation)


def test_the_loss_is_the_sum_of_its_heads(x64):
    batch = double(random_batch())
    outputs = _outputs(batch)
    hyper = {**HYPER, **PER_HEAD}
    make_targets, loss = every_head(OBJECTIVE, OUTER)
    total, metrics = loss(outputs, make_targets(outputs, batch, hyper), batch, hyper)
    expected = 0.0
    for head in range(3):
        single = {**HYPER, **{name: float(value[head]) for name, value in PER_HEAD.items()}}
        view = NetworkOutput(outputs.logits, outputs.value)
        if head:
            view = NetworkOutput(
                outputs.auxiliary_logits[..., head - 1, :], outputs.auxiliary_value[..., head - 1]
            )
        targets = actor_critic.make_targets(view, batch, single)
        expected += float(actor_critic.loss(view, targets, batch, single)[0])
        if head == 0:
            steps = batch.valid.sum()
    outer = NetworkOutput(outputs.logits, outputs.outer_value)
    targets = actor_critic.make_targets(outer, batch, OUTER)
    error = np.where(batch.valid, targets.value - outputs.outer_value[:-1], 0.0)
    expected += OUTER["value_cost"] * 0.5 * float((error**2).sum())
    np.testing.assert_allclose(total, expected, rtol=1e-10)
    np.testing.assert_allclose(metrics["loss/total"], expected / steps, rtol=1e-10)


def test_a_network_without_heads_runs_on_the_parameters_of_one_with_them():
    batch = random_batch()
    params = NETWORK.init(jax.random.key(0))
    plain = make_network("shallow", 3, (5,), np.float32).apply(params, batch.observation)
    full = NETWORK.apply(params, batch.observation)
    np.testing.assert_array_equal(plain.logits, full.logits)
    np.testing.assert_array_equal(plain.value, full.value)
    assert full.auxiliary_logits.shape == (6, 4, 2, 3)
    assert full.auxiliary_value.shape == (6, 4, 2)
    assert plain.auxiliary_logits is None


def test_the_outer_loss_prefers_the_outer_value_and_holds_the_policy(x64):
    batch = double(random_batch())
    outputs = _outputs(batch)
    make_targets, loss = outer_loss.make_plain(OBJECTIVE, 0.0, None)
    targets = make_targets(outputs, batch, OUTER)
    outer = NetworkOutput(outputs.logits, outputs.outer_value)
    expected = actor_critic.make_targets(outer, batch, OUTER)
    jax.tree.map(np.testing.assert_array_equal, targets, expected)
    before = outputs.logits + jnp.asarray(np.random.default_rng(3).normal(size=(6, 4, 3)))
    _, held = outer_loss.make_plain(OBJECTIVE, 0.3, before)
    with_kl = held(outputs, targets, batch, OUTER)[0]
    without = loss(outputs, targets, batch, OUTER)[0]
    new, old = (np.asarray(jax.nn.softmax(x[:-1])) for x in (outputs.logits, before))
    kl = (new * np.log(new / old)).sum(-1)[np.asarray(batch.valid)].sum()
    np.testing.assert_allclose(with_kl - without, 0.3 * kl, rtol=1e-8)


def test_trust_region_leaves_out_steps_of_a_distant_policy():
    batch = random_batch()
    logits = np.concatenate([batch.behaviour_logits, batch.behaviour_logits[:1]])
    logits[2, 1] = [9.0, -9.0, -9.0]
    outputs = NetworkOutput(jnp.asarray(logits), jnp.zeros((6, 4)))
    kept = actor_critic.within_trust_region(outputs, batch, 0.5).valid
    expected = batch.valid.copy()
    expected[2, 1] = False
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("heads", [1, 3])
def test_meta_parameters_start_where_they_should_and_stay_in_range(heads):
    learned = {
        "discount": Learned(0.3, 1.0),
        "entropy_cost": Learned(0.01, 0.01),
        "learning_rate_scale": Learned(1.0, 2.0),
        "value_cost": Learned(0.0, 0.5),
    }
    tuned = single_numbers(HYPER, learned, heads)
    meta_params = tuned.init(jax.random.key(0))
    values = tuned.values(meta_params, ())
    assert set(values) == set(HYPERPARAMETERS)
    np.testing.assert_allclose(values["discount"], 0.3, rtol=1e-6)
    # At its bound a learned value starts one per cent inside, at the published logit of 4.6.
    np.testing.assert_allclose(meta_params["entropy_cost"], 4.6)
    np.testing.assert_allclose(values["entropy_cost"], 0.0099, rtol=1e-3)
    np.testing.assert_allclose(values["value_cost"], 0.005, rtol=1e-2)
    assert values["learning_rate_scale"].shape == ()  # all heads share one update
    assert values["policy_cost"].shape == ((heads,) if heads > 1 else ())
    far = jax.tree.map(lambda x: x + 1e3, meta_params)
    for name, value in tuned.values(far, ()).items():
        if name in learned:
            np.testing.assert_allclose(value, learned[name].upper)
    named = named_values(values)
    if heads == 3:
        assert {"discount", "auxiliary_1/discount", "auxiliary_2/discount"} <= set(named)
    assert all(value.shape == () for value in named.values())
