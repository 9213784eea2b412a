"""From a `Config` to a learner of many seeds whose environment runs on its device."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from actors.on_device import DeviceEnvironment, make_two_colours, make_unroll
from agents import actor_critic
from agents.actor_critic import Loss
from agents.matching import Matching
from agents.meta_gradient import Matching as MatchStates
from agents.meta_gradient import MetaOutput, bootstrap_target
from agents.meta_network import (
    Contextual,
    RewardContext,
    init_context,
    make_contextual,
    without_context,
)
from agents.meta_parameters import Learned, init_meta_params
from agents.networks import Network, make_dense_network, make_network, without_last_logits
from agents.on_policy import (
    LiftedUpdate,
    init_on_policy_state,
    match_where_played,
    on_policy,
    plain_last_update,
)
from agents.q_learning import (
    become_greedy,
    explore,
    greedy_changes,
    init_q_state,
    make_q_update,
    match_policies,
)
from agents.update import MakeTargets, Metrics, init_inner_state, make_update
from configs.load import ConfigError
from configs.schema import Config
from learner.on_device import Cycle, SeedsLearner, make_seeds_learner, meta_cycle, plain_cycle
from learner.step import MetaLearning, MetaState
from scripts.algorithms import (
    fixed_values,
    inner_optimizer,
    last_step,
    matching_function,
    matching_weights,
    meta_optimizer,
    outer_values,
    reduced,
)
from scripts.check import hyperparameter_range, learns

# Environment steps in a point of the learning curve, about: a hundred points to a swap.
_STEPS_PER_POINT = 1_000
# More seeds than that take shorter points, so that a run still looks for signals every few seconds.
_SEEDS_OF_FULL_POINTS = 100


def use_all_cores(config: Config) -> None:
    """Makes a JAX device of each core of the CPU that may be used; before JAX looks for devices.

    Products of such small matrices are not worth being split between threads, so none are.
    """
    everywhere = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if everywhere else os.cpu_count() or 1
    wanted = min(config.learner.devices or cores, cores, config.seeds)
    jax.config.update("jax_num_cpu_devices", wanted)
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


def build_environment(config: Config) -> DeviceEnvironment:
    """What is played."""
    env = config.env
    return make_two_colours(env.swap_period, env.respawn, env.collection_discount)


class Parts(NamedTuple):
    """What the learner of one seed is made of."""

    cycle: Cycle
    init: Callable[[jax.Array], tuple[Any, MetaState | None]]  # key -> first state
    updates: int  # in a cycle


def build_parts(config: Config, environment: DeviceEnvironment) -> Parts:
    """Cycle and first state of the configuration's agent.

    Raises:
        ConfigError: there is no such matching function.
    """
    matching = matching_function(config)
    build = _q_lambda if config.agent.algorithm.startswith("q_lambda") else _actor_critic
    return build(config, environment, matching)


def build_seeds_learner(config: Config, parts: Parts) -> SeedsLearner:
    """The learner of all seeds.

    Raises:
        ConfigError: there are fewer devices than asked for.
    """
    steps = config.learner.unroll_length
    points_steps = _STEPS_PER_POINT / max(1.0, config.seeds / _SEEDS_OF_FULL_POINTS)
    return make_seeds_learner(
        parts.cycle,
        parts.init,
        seeds=range(config.seed, config.seed + config.seeds),
        devices=_devices(config),
        updates_per_cycle=parts.updates,
        steps_per_update=steps,
        cycles=max(1, round(points_steps / (parts.updates * steps))),
    )


def _devices(config: Config) -> list[Any]:
    available = jax.local_devices()
    count = config.learner.devices or len(available)
    count = min(count, config.seeds)
    if count > len(available):
        raise ConfigError(
            f"learner.devices={config.learner.devices}: this machine has {len(available)} "
            f"({available[0].platform}); 0 takes all"
        )
    return available[:count]


def state_bytes(config: Config, parts: Parts) -> int:
    """Size of the learner's state of all seeds, the trajectories that it holds included."""
    state = jax.eval_shape(parts.init, jax.random.key(config.seed))
    return config.seeds * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


class _Hyperparameters(NamedTuple):
    """Where an agent's hyper-parameters come from; functions of (meta-parameters, context)."""

    learned: dict[str, Learned]
    values: Contextual  # of all of them
    describe: Callable[[Any], Metrics]  # of the learned ones, by name
    describe_gradient: Callable[[Any], Metrics]  # of a meta-gradient, by name of the learned ones
    init: Callable[[jax.Array], Any]  # key -> meta-parameters


def _hyperparameters(config: Config) -> _Hyperparameters:
    names = config.meta.learned if learns(config) else []
    learned = {name: Learned(*hyperparameter_range(config, name)) for name in names}
    fixed = fixed_values(config)
    if not learned:
        none = (lambda inputs: {}, lambda gradient: {}, lambda key: {})
        return _Hyperparameters(learned, lambda inputs: fixed, *none)
    meta = config.meta
    length, outputs = meta.context_length, len(learned)
    if length:
        network = make_dense_network(length, meta.hidden, outputs, zero_output=True)
        values = make_contextual(network, fixed, learned, meta.context_normalised)
        init = network.init
    else:
        values, init = without_context(fixed, learned), lambda key: init_meta_params(learned, 1)

    def describe(inputs: Any) -> dict[str, jax.Array]:
        everything = values(inputs)
        return {name: jnp.asarray(everything[name]) for name in learned}

    def describe_gradient(gradient: Any) -> dict[str, jax.Array]:
        # A bias is added to each of the network's outputs, so its gradient is that of them all.
        parts = gradient["output"]["b"] if length else [gradient[name] for name in learned]
        return {f"meta/gradient/{name}": jnp.abs(parts[i]) for i, name in enumerate(learned)}

    return _Hyperparameters(learned, values, describe, describe_gradient, init)


def _first_context(config: Config) -> RewardContext:
    """Before the first reward; where nothing looks at it, of one: orbax saves no empty arrays."""
    return init_context(max(1, config.meta.context_length))


def _actor_critic(config: Config, environment: DeviceEnvironment, matching: Matching) -> Parts:
    """The paper's actor-critic."""
    network = make_network(
        config.agent.network, environment.num_actions, environment.observation_shape, jnp.float32
    )
    unroll = make_unroll(environment, network, config.learner.unroll_length)
    if config.agent.network == "separate":  # else the two are computed together
        network = without_last_logits(network)
    optimizer = inner_optimizer(config)
    hyper = _hyperparameters(config)
    objective = actor_critic.make_one_step_targets, reduced(config, actor_critic.loss)
    update = make_update(network, *objective, optimizer, hyper.values)
    lifted = on_policy(update, unroll, hyper.describe)
    context = _first_context(config)
    learning = None
    if hyper.learned:
        match = match_where_played(network, matching, matching_weights(config))
        learning = _meta_learning(config, network, objective, optimizer, lifted, match)

    def init(key: jax.Array) -> tuple[Any, MetaState | None]:
        for_network, for_environment, for_weights, for_unroll = jax.random.split(key, 4)
        inner = init_inner_state(network.init(for_network), optimizer)
        weights = hyper.init(for_weights)
        state = init_on_policy_state(
            inner,
            environment.reset(for_environment),
            update,
            unroll,
            hyper.describe,
            (weights, context),
            for_unroll,
        )
        return state, learning and MetaState(weights, learning.optimizer.init(weights))

    if learning is None:
        return Parts(plain_cycle(lifted), init, 1)
    updates = learning.inner_steps + config.meta.bootstrap_steps - 1
    cycle = meta_cycle(
        lifted,
        learning,
        learning.inner_steps,
        lambda gradient, output: hyper.describe_gradient(gradient),
    )
    return Parts(cycle, init, updates)


def _q_lambda(config: Config, environment: DeviceEnvironment, matching: Matching) -> Parts:
    """Q(lambda), an update a step."""
    (features,) = environment.observation_shape
    network = make_dense_network(features, (256, 256), environment.num_actions)
    optimizer = inner_optimizer(config)
    hyper = _hyperparameters(config)
    update = make_q_update(
        network,
        environment.observe,
        environment.step,
        optimizer,
        hyper.values,
        hyper.describe,
    )
    context = _first_context(config)
    played = config.meta.bootstrap_steps - 1
    meta = meta_optimizer(config)

    def init(key: jax.Array) -> tuple[Any, MetaState | None]:
        for_network, for_environment, for_weights = jax.random.split(key, 3)
        first = environment.reset(for_environment)
        weights = hyper.init(for_weights)
        state = init_q_state(
            network,
            optimizer,
            first,
            environment.observe(first),
            context,
            hyper.describe((weights, context)),
            played if hyper.learned else 1,
            for_network,
        )
        return state, MetaState(weights, meta.init(weights)) if hyper.learned else None

    if not hyper.learned:
        return Parts(plain_cycle(update), init, 1)
    learning = MetaLearning(
        inner_steps=1,  # setting epsilon
        keep_bootstrapped=True,
        target=bootstrap_target(update, become_greedy, written_out=0),
        matching=match_policies(network, matching, matching_weights(config)),
        optimizer=meta,
    )
    share = greedy_changes(network)

    def describe(gradient: Any, output: MetaOutput) -> Metrics:
        return {**hyper.describe_gradient(gradient), "meta/greedy_changes": share(output)}

    cycle = meta_cycle(explore(hyper.values), learning, 0, describe)
    return Parts(cycle, init, played)


def _meta_learning(
    config: Config,
    network: Network,
    objective: tuple[MakeTargets, Loss],
    optimizer: optax.GradientTransformation,
    lifted: LiftedUpdate,
    match: MatchStates,
) -> MetaLearning:
    """BMG; or plain meta-gradients, as the special case that they are."""
    step, outer = last_step(config, optimizer), outer_values(config)
    rule = make_update(network, *objective, step.optimizer, lambda _: outer)
    last_update = plain_last_update(rule, step.state)
    return MetaLearning(
        config.meta.inner_steps,
        keep_bootstrapped=True,
        target=bootstrap_target(lifted, last_update, written_out=0),
        matching=match,
        optimizer=meta_optimizer(config),
    )
