"""From a `Config` to a learner of many seeds whose environment runs on its device."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from actors.environments.device import DeviceEnvironment
from actors.environments.suites import check_environment, make_device_environment
from actors.environments.vector import EnvironmentRefused
from actors.on_device import make_players, make_unroll
from agents.algorithm import Algorithm, State, make_algorithm
from agents.networks import Params, make_dense_network, make_network, without_last_logits
from agents.off_policy import off_policy_parts
from agents.on_policy import on_policy_parts
from agents.parts import Parts
from agents.playing import playing
from agents.q_learning import q_lambda_parts
from agents.settings import Settings
from agents.trajectory import learner_view
from configs.load import ConfigError
from configs.schema import Config, EnvironmentConfig, LearnerConfig
from learner.on_device import SeedsLearner, SeedsState, make_seeds_learner
from scripts.build import Probe, check_network
from scripts.check import environment_spec
from scripts.settings import make_settings

# Environment steps in a point of the learning curve, about: a hundred points to a swap.
_STEPS_PER_POINT = 1_000
# More seeds than that take shorter points, so that a run still looks for signals every few seconds.
_SEEDS_OF_FULL_POINTS = 100


def use_all_cores(devices: int, seeds: int) -> None:
    """Makes a JAX device of each core of the CPU that may be used; before JAX looks for devices.

    Where it has looked already, in a notebook say, what it has found is used.

    Products of such small matrices are not worth being split between threads, so none are.

    Args:
        devices: at most so many; 0: all.
        seeds: that share them.
    """
    everywhere = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if everywhere else os.cpu_count() or 1
    wanted = min(devices or cores, cores, seeds)
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


def build_environment(env: EnvironmentConfig) -> DeviceEnvironment:
    """What is played.

    Raises:
        ConfigError: what a plugin has brought does not fit.
    """
    spec = environment_spec(env)
    try:
        check_environment(spec, 0, on_device=True)
        return make_device_environment(spec)
    except EnvironmentRefused as error:
        raise ConfigError(f"env.game={env.game}: {error}") from error


def build_parts(
    settings: Settings, environment: DeviceEnvironment, network: str, unroll_length: int
) -> Parts:
    """The parts of the agent that the settings name, which plays between its updates.

    Args:
        settings: of the agent.
        environment: what it plays; has no episodes.
        network: name of the actor-critic's.
        unroll_length: of the actor-critic's.
    """
    actions, shape = environment.num_actions, environment.observation_shape
    if settings.algorithm.startswith("q_lambda"):
        (features,) = shape
        q = make_dense_network(features, (256, 256), actions)
        play = environment.reset, environment.observe, environment.step
        return q_lambda_parts(settings, q, *play)
    acting = learning = make_network(network, actions, shape, jnp.float32)
    if network == "separate":  # else policy and value are computed together
        learning = without_last_logits(acting)
    unroll = make_unroll(environment, acting, unroll_length)
    return on_policy_parts(settings, learning, environment.reset, unroll)


def build_algorithm(config: Config, environment: DeviceEnvironment) -> Algorithm:
    """The configuration's algorithm, whose inputs are random keys.

    Raises:
        ConfigError: there is no such matching function, no schedule to replay, or the network
            cannot take the observations.
    """
    if not config.env.is_on_policy:
        return with_players(config, environment, lambda algorithm: algorithm)
    settings, learner = make_settings(config), config.learner
    parts = build_parts(settings, environment, config.agent.network, learner.unroll_length)
    return make_algorithm(parts, settings)


def with_players(
    config: Config, environment: DeviceEnvironment, change: Callable[[Algorithm], Algorithm]
) -> Algorithm:
    """An algorithm that plays before each step.

    Args:
        config: of the run.
        environment: what it plays.
        change: from the configuration's algorithm to the one that gets the batches.

    Raises:
        ConfigError: as `build_algorithm`.
    """
    settings, name = make_settings(config), config.agent.network
    actions, shape = environment.num_actions, environment.observation_shape
    dtype = environment.observation_dtype
    check_network(name, Probe(actions, shape, dtype, False), config.env.game)
    network = make_network(name, actions, shape, dtype, settings.heads)
    clip, learner = config.env.reward_clip, config.learner
    parts = off_policy_parts(settings, network, lambda batch: learner_view(batch, False, clip))
    players = make_players(environment, network, learner.unroll_length, learner.batch_size)
    return playing(change(make_algorithm(parts, settings)), *players)


def trace_step(algorithm: Algorithm) -> None:
    """Traces a step, so that what plugins have made wrong is known before anything is created.

    Raises:
        Exception: whatever a plugin's functions raise.
    """
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), algorithm.online))
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    jax.eval_shape(algorithm.step, state, keys, None)


def build_seeds_learner(algorithm: Algorithm, learner: LearnerConfig, seeds: range) -> SeedsLearner:
    """The learner of all seeds.

    Raises:
        ConfigError: there are fewer devices than asked for.
    """
    steps = learner.batch_size * learner.unroll_length
    points_steps = _STEPS_PER_POINT / max(1.0, len(seeds) / _SEEDS_OF_FULL_POINTS)
    return make_seeds_learner(
        algorithm,
        seeds=seeds,
        devices=devices_of(learner.devices, len(seeds)),
        steps_per_update=steps,
        cycles=max(1, round(points_steps / (algorithm.online * steps))),
    )


def policies(state: SeedsState) -> list[Params]:
    """Parameters of the agent of each seed.

    Args:
        state: host arrays of actor-critics.
    """
    inner = state.inner.inner
    if isinstance(inner, State):  # of an algorithm that plays before its steps
        inner = inner.inner
    seeds = jax.tree.leaves(inner.params)[0].shape[0]
    return [jax.tree.map(lambda x, i=i: x[i], inner.params) for i in range(seeds)]


def devices_of(wanted: int, seeds: int) -> list[Any]:
    """So many devices of this process, at most one for each seed; 0 takes all.

    Raises:
        ConfigError: there are fewer.
    """
    available = jax.local_devices()
    count = min(wanted or len(available), seeds)
    if count > len(available):
        raise ConfigError(
            f"learner.devices={wanted}: this machine has {len(available)} "
            f"({available[0].platform}); 0 takes all"
        )
    return available[:count]


def state_bytes(algorithm: Algorithm, seeds: int) -> int:
    """Size of the learner's state of all seeds, the trajectories that it holds included."""
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    return seeds * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
