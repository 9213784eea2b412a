"""A small agent and random batches for tests of the learner."""

import jax
import numpy as np

from agents import actor_critic
from agents.hyperparameters import Hyperparameters
from agents.networks import make_network
from agents.trajectory import Trajectory
from learner.optimizers import make_optimizer
from learner.step import init_learner_state, make_learner
from learner.update import init_inner_state, make_update

FEATURES, ACTIONS = 5, 3
HYPER = Hyperparameters(0.99, 1.0, 1.0, 1.0, 1.0, 0.5, 0.01)
NETWORK = make_network("shallow", ACTIONS, (FEATURES,), np.float32)


def small_update(optimizer=None):
    optimizer = optimizer or make_optimizer("rmsprop", 1e-3, max_gradient_norm=40.0)
    return make_update(
        NETWORK, actor_critic.make_targets, actor_critic.loss, optimizer, lambda _: HYPER
    )


def small_learner(devices=None, optimizer=None):
    optimizer = optimizer or make_optimizer("rmsprop", 1e-3, max_gradient_norm=40.0)
    learner = make_learner(small_update(optimizer), lambda b: b, devices or jax.devices()[:1])
    return learner, small_state(optimizer)


def small_state(optimizer=None):
    optimizer = optimizer or make_optimizer("rmsprop", 1e-3, max_gradient_norm=40.0)
    params = NETWORK.init(jax.random.key(0))
    return init_learner_state(init_inner_state(params, optimizer))


def random_batch(seed=0, steps=5, batch=4):
    rng = np.random.default_rng(seed)
    shape = (steps, batch)
    return Trajectory(
        rng.normal(size=(steps + 1, batch, FEATURES)).astype(np.float32),
        rng.integers(ACTIONS, size=shape).astype(np.int32),
        rng.normal(size=shape).astype(np.float32),
        np.where(rng.random(shape) < 0.2, 0.0, 1.0).astype(np.float32),
        rng.normal(size=(*shape, ACTIONS)).astype(np.float32),
        rng.random(shape) > 0.2,
    )
