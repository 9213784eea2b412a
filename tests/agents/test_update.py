"""One update: the pull-back form equals the textbook semi-gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from agents import actor_critic
from agents.optimizers import make_optimizer
from agents.settings import OptimizerSettings
from agents.update import init_inner_state
from tests.small import HYPER, NETWORK, random_batch, small_parts, small_settings


def test_equals_the_gradient_with_targets_as_constants(x64):
    batch = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64) if x.dtype == np.float32 else jnp.asarray(x),
        random_batch(),
    )
    params = jax.tree.map(lambda x: x.astype(jnp.float64), NETWORK.init(jax.random.key(1)))
    fixed = actor_critic.make_targets(NETWORK.apply(params, batch.observation), batch, HYPER)

    def textbook(params):
        outputs = NETWORK.apply(params, batch.observation)
        return actor_critic.loss(outputs, fixed, batch, HYPER)[0]

    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(textbook)(params))
    settings = small_settings(optimizer=OptimizerSettings("sgd", 0.1))
    state = init_inner_state(params, make_optimizer(settings.optimizer))
    state, metrics = small_parts(settings).update(state, batch, {})
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), state.params, expected
    )
    norm = optax.tree.norm(jax.grad(textbook)(params))
    np.testing.assert_allclose(metrics["loss/gradient_norm"], norm, rtol=1e-9)
