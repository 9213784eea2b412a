"""A small agent with the real loss, its meta-learner, and random batches, for tests."""

import jax
import jax.numpy as jnp
import numpy as np

from agents.algorithm import make_algorithm
from agents.hyperparameters import HYPERPARAMETERS, Learned
from agents.networks import NO_HEADS, make_network
from agents.off_policy import off_policy_parts
from agents.optimizers import make_optimizer, own_step
from agents.settings import OptimizerSettings
from agents.trajectory import Trajectory
from agents.update import init_inner_state
from configs.schema import Config
from learner.step import Experience, make_learner
from scripts.settings import make_settings

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
    "sgd": OptimizerSettings("sgd", 1e-2),
    "rmsprop": OptimizerSettings("rmsprop", 1e-2, epsilon=1e-3, max_gradient_norm=5.0),
    "adam": OptimizerSettings("adam", 1e-2, epsilon=1e-3),
}
CLIPPED = OptimizerSettings("rmsprop", 1e-3, max_gradient_norm=40.0)
NETWORK = make_network("shallow", ACTIONS, (FEATURES,), np.float32)


def small_settings(**changes):
    """Those of the default configuration but for `changes`."""
    return make_settings(Config())._replace(fixed=HYPER, outer=OUTER, **changes)


def small_parts(settings, network=NETWORK):
    return off_policy_parts(settings, network, lambda batch: batch)


def small_algorithm(optimizer=CLIPPED):
    settings = small_settings(optimizer=optimizer)
    return make_algorithm(small_parts(settings), settings)


def small_learner(devices=None, optimizer=CLIPPED):
    learner = make_learner(small_algorithm(optimizer), devices or jax.devices()[:1])
    return learner, small_state(optimizer)


def small_state(optimizer=CLIPPED):
    return small_algorithm(optimizer).init(jax.random.key(0))


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
    """What `bmg train` builds from settings, on a small network; its parts within reach."""

    def __init__(
        self,
        network=NETWORK,
        *,
        algorithm="bmg",
        optimizer=OPTIMIZERS["rmsprop"],
        heads=NO_HEADS,
        kl_cost=0.0,
        max_kl=0.0,
        loss="sum",
        objective="actor_critic",
        learned=LEARNED,
        **meta,
    ):
        if heads != NO_HEADS:
            network = make_network("shallow", ACTIONS, (FEATURES,), np.float32, heads)
        changes = {"learning_rate": 1e-2, "epsilon": 1e-8, **meta}
        self.network, self.learned = network, learned
        self.settings = small_settings(
            algorithm=algorithm,
            optimizer=optimizer,
            heads=heads,
            kl_cost=kl_cost,
            max_kl=max_kl,
            loss=loss,
            objective=objective,
            learned=learned,
            meta=make_settings(Config()).meta._replace(**changes),
        )
        self.parts = small_parts(self.settings, network)
        self.update, _, self.match, self.meta_gradient = self._algorithm().meta
        self.last_update = self.parts.outer_update(own_step(optimizer))

    def _algorithm(self, **meta):
        changed = self.settings.meta._replace(**meta)
        return make_algorithm(self.parts, self.settings._replace(meta=changed))

    def meta_params(self):
        return self.parts.tuned.init(jax.random.key(0))

    def state(self, first_batch=None):
        """After one update, if there is a batch for it: second moments are then not zero."""
        params = self.network.init(jax.random.key(1))
        optimizer = make_optimizer(self.settings.optimizer)
        if first_batch is None:
            return init_inner_state(params, optimizer)
        dtype = first_batch.reward.dtype
        state = init_inner_state(jax.tree.map(lambda x: x.astype(dtype), params), optimizer)
        return jax.jit(self.update)(state, first_batch, self.meta_params())[0]

    def after(self, meta_params, state, batches):
        """The updates on all batches, in a plain loop."""
        for k in range(batches.action.shape[0]):
            state, _ = self.update(state, row(batches, k), meta_params)
        return state

    def learner(self, devices=None, **meta):
        """A learner and its first state."""
        algorithm = self._algorithm(**meta)
        learner = make_learner(algorithm, devices or jax.devices()[:1])
        return learner, algorithm.init(jax.random.key(1))
