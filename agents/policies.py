"""From logits to actions."""

import jax
import jax.numpy as jnp


def sample(key: jax.Array, logits: jax.Array) -> jax.Array:
    """Draws from the softmax policy: logits [..., A] to actions [...] int32."""
    return jax.random.categorical(key, logits).astype(jnp.int32)


def greedy(key: jax.Array, logits: jax.Array) -> jax.Array:
    """The most likely action; `key` is what every policy takes, and is not used."""
    del key
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def uniform(key: jax.Array, logits: jax.Array) -> jax.Array:
    """Random play: every action equally likely, whatever the logits."""
    return jax.random.randint(key, logits.shape[:-1], 0, logits.shape[-1], dtype=jnp.int32)


def kl_divergence(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
    """KL(p || q) of softmax policies: logits [..., A] to [...]."""
    log_p, log_q = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


POLICIES = {"sample": sample, "greedy": greedy, "random": uniform}
