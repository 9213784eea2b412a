"""A small agent with the real loss, its meta-learner, and random batches, for tests."""

import jax
import jax.numpy as jnp
import numpy as np

from agents import actor_critic, outer_loss
from agents.heads import every_head
from agents.hyperparameters import HYPERPARAMETERS
from agents.matching import MATCHING, Point, Weights
from agents.meta_gradient import bootstrap_target, bootstrapped_meta_gradient
from agents.meta_parameters import Learned, init_meta_params, make_hyperparameters, named_values
from agents.networks import NO_HEADS, make_network
from agents.optimizers import make_optimizer
from agents.trajectory import Trajectory
from agents.update import init_inner_state, make_update
from learner.step import Experience, MetaLearning, init_learner_state, make_learner

FEATURES, ACTIONS = 5, 3
HYPER = {name: entry.default for name, entry in HYPERPARAMETERS.items()}
OUTER = {
    name: entry.default if entry.outer is None else entry.outer
    for name, entry in HYPERPARAMETERS.items()
}
# In the middle of their ranges, where none of them is cut off.
LEARNED = {
    "discount": Learned(0.9, 1.0),
    "vtrace_lambda": Learned(0.8, 1.0),
    "vtrace_leak": Learned(0.8, 1.0),
    "vtrace_leak_rho": Learned(0.7, 1.0),
    "vtrace_leak_c": Learned(0.6, 1.0),
    "policy_cost": Learned(0.7, 1.0),
    "value_cost": Learned(0.3, 0.5),
    "entropy_cost": Learned(0.03, 0.1),
    "learning_rate_scale": Learned(0.9, 2.0),
}
OPTIMIZERS = {
    "sgd": lambda: make_optimizer("sgd", 1e-2),
    "rmsprop": lambda: make_optimizer("rmsprop", 1e-2, epsilon=1e-3, max_gradient_norm=5.0),
    "adam": lambda: make_optimizer("adam", 1e-2, epsilon=1e-3),
}
NETWORK = make_network("shallow", ACTIONS, (FEATURES,), np.float32)


def small_update(optimizer=None):
    optimizer = optimizer or make_optimizer("rmsprop", 1e-3, max_gradient_norm=40.0)
    return make_update(
        NETWORK, actor_critic.make_targets, actor_critic.loss, optimizer, lambda _: HYPER
    )


def small_learner(devices=None, optimizer=None):
    learner = make_learner(small_update(optimizer), devices or jax.devices()[:1])
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


def experience(*online, bootstrap=()):
    """What a learner's step takes, from batches."""

    def stack(batches):
        return jax.tree.map(lambda *x: np.stack(x), *batches)

    return Experience(stack(online), stack(bootstrap) if bootstrap else None)


def double(batches):
    """The same numbers in double precision."""
    return jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64) if x.dtype == np.float32 else jnp.asarray(x), batches
    )


def row(batches, index):
    """One of stacked batches."""
    return jax.tree.map(lambda x: x[index], batches)


class MetaProblem:
    """A network, an update with learned hyper-parameters, a target and a matching function."""

    def __init__(
        self,
        network=NETWORK,
        *,
        optimizer=None,
        target_optimizer=None,  # None: the learner's own
        matching="kl_value",
        heads=NO_HEADS,
        kl_cost=0.0,
        learned=LEARNED,
    ):
        losses = (actor_critic.make_targets, actor_critic.loss)
        if heads != NO_HEADS:
            network = make_network("shallow", ACTIONS, (FEATURES,), np.float32, heads)
            losses = every_head(OUTER)
        self.network, self.heads, self.learned = network, 1 + heads.auxiliary, learned
        self.optimizer = optimizer or OPTIMIZERS["rmsprop"]()
        hyperparameters = make_hyperparameters(HYPER, learned, self.heads)
        self.update = make_update(network, *losses, self.optimizer, hyperparameters)
        self.target_optimizer, self.kl_cost = target_optimizer, kl_cost
        self.matching = MATCHING[matching]
        self.target = bootstrap_target(self.update, self.last_update)
        self.meta_gradient = bootstrapped_meta_gradient(self.update, self.target, self.match)

    def last_update(self, initial, state, batch):
        before = self.network.apply(initial.params, batch.observation).logits
        loss = outer_loss.make_loss(self.kl_cost, before)
        optimizer = self.target_optimizer or self.optimizer
        if self.target_optimizer is not None:
            state = init_inner_state(state.params, optimizer)
        rule = make_update(self.network, outer_loss.make_targets, loss, optimizer, lambda _: OUTER)
        return rule(state, batch, {})[0]

    def match(self, goal, learner, inputs):
        batch = row(inputs, -1)
        points = [
            Point(state.params, self.network.apply(state.params, batch.observation))
            for state in (goal, learner)
        ]
        return self.matching(*points, batch, Weights())

    def meta_params(self):
        return init_meta_params(self.learned, self.heads)

    def state(self, first_batch=None):
        """After one update, if there is a batch for it: second moments are then not zero."""
        params = self.network.init(jax.random.key(1))
        if first_batch is None:
            return init_inner_state(params, self.optimizer)
        dtype = first_batch.reward.dtype
        state = init_inner_state(jax.tree.map(lambda x: x.astype(dtype), params), self.optimizer)
        return jax.jit(self.update)(state, first_batch, self.meta_params())[0]

    def after(self, meta_params, state, batches):
        """The updates on all batches, in a plain loop."""
        for k in range(batches.action.shape[0]):
            state, _ = self.update(state, row(batches, k), meta_params)
        return state

    def learner(self, devices=None, inner_steps=1, keep_bootstrapped=False, warmup_updates=0):
        """A learner and its first state."""
        values = make_hyperparameters({}, self.learned, self.heads)
        meta_optimizer = make_optimizer("adam", 1e-2, epsilon=1e-8)
        meta = MetaLearning(
            inner_steps,
            keep_bootstrapped,
            self.target,
            self.match,
            meta_optimizer,
            plain=(self.target, self.match),
            warmup_updates=warmup_updates,
        )
        learner = make_learner(
            self.update,
            devices or jax.devices()[:1],
            meta=meta,
            describe=lambda meta_params: named_values(values(meta_params)),
        )
        return learner, init_learner_state(self.state(), self.meta_params(), meta_optimizer)
