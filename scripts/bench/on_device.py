"""`bmg bench` of seeds in one program: the stages, and how speed grows with seeds, K and L."""

import functools
import json
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from actors.on_device import make_unroll
from agents.algorithm import make_algorithm
from agents.networks import make_network
from configs.load import ConfigError, load
from configs.schema import Config
from learner.on_device import SeedsLearner
from scripts import few_shot, jax_environment, memory, on_device, runtime
from scripts.bench.budget import Stage, chosen
from scripts.bench.machine import machine, rate
from scripts.check import check
from scripts.settings import make_settings

_ROUNDS = 5  # in which the programs take turns
_STAGE_SECONDS = 5.0  # of a program within a budget
_SHARE = 0.05  # of --seconds, for a program in a round
_SEEDS = (1, 2, 8, 50)
_INNER_STEPS = (1, 3, 7, 15)
_BOOTSTRAP_STEPS = (1, 5, 9, 17)


def bench_checked(config: Config, source: str, overrides: list[str], seconds: int) -> int:
    """Measures the configuration, its stages, and its neighbours with other seeds, K and L.

    All programs take turns, so that a machine that slows down slows down all of them; rates are
    medians over rounds, in environment steps of all seeds together.

    Args:
        config: that was checked.
        source: of it.
        overrides: of its keys.
        seconds: the whole is measured for a quarter of it, as is every other program.

    Raises:
        ConfigError: nothing was started.
    """
    _begin(config)
    makers = _programs(source, overrides, config)
    made = {make: make() for make in dict.fromkeys(makers.values())}
    programs = {name: made[make] for name, make in makers.items()}
    # The configuration itself is in each series, under a name of its own: one program, timed once.
    rates: dict[Callable[[], int], list[float]] = {work: [] for work in programs.values()}
    for _ in range(_ROUNDS):
        for work, values in rates.items():
            values.append(rate(work, _SHARE * seconds))
    median = {name: round(statistics.median(rates[work])) for name, work in programs.items()}

    def grown(by: str) -> dict[str, int]:
        return {n.partition("=")[2]: rate for n, rate in median.items() if n.startswith(f"{by}=")}

    whole = rates[programs["whole"]]
    unit = "tasks" if config.env.is_few_shot else "environment steps"
    result = {
        "config": source,
        "overrides": overrides,
        "algorithm": config.agent.algorithm,
        "seeds": config.seeds,
        "inner_steps": config.meta.inner_steps,
        "bootstrap_steps": config.meta.bootstrap_steps,
        **machine(),
        "rounds": _ROUNDS,
        "unit": f"{unit} per second, all seeds together",
        "steps_per_second": {
            **{k: v for k, v in median.items() if "=" not in k},
            "whole_range": [round(min(whole)), round(max(whole))],
        },
        "by_seeds": grown("seeds"),
        "by_inner_steps": grown("inner_steps"),
        "by_bootstrap_steps": grown("bootstrap_steps"),
    }
    print(json.dumps(result, indent=2))
    return 0


def _begin(config: Config) -> None:
    on_device.use_all_cores(config.learner.devices, max(config.seeds, *_SEEDS))
    runtime.prepare_jax(config.learner.gpu_memory)
    jax_environment.require_device()
    if not config.env.is_few_shot:
        environment = on_device.build_environment(config.env)
        algorithm = on_device.build_algorithm(config, environment)
        memory.check_on_device(config, environment, algorithm)


def stages(config: Config, source: str, overrides: list[str], wanted: list[str]) -> list[Stage]:
    """As `scripts.bench.with_actors.stages`, where the environment runs on the device."""
    _begin(config)

    def measured(make: _Make, left: float) -> dict[str, Any]:
        del left
        work = make()
        rates = [rate(work, _STAGE_SECONDS / _ROUNDS) for _ in range(_ROUNDS)]
        return {
            "steps_per_second": round(statistics.median(rates)),
            "range": [round(min(rates)), round(max(rates))],
            "seconds_measured": _STAGE_SECONDS,
        }

    programs = _programs(source, overrides, config)
    every = [
        Stage(name, _STAGE_SECONDS, functools.partial(measured, make))
        for name, make in programs.items()
    ]
    return chosen(every, wanted)


# Compiles a program that makes some environment steps, and returns how many.
_Make = Callable[[], Callable[[], int]]


def _programs(source: str, overrides: list[str], config: Config) -> dict[str, _Make]:
    """By name, the most important first; of one program there is one maker."""
    whole = functools.partial(_training, config)
    programs: dict[str, _Make] = {"whole": whole}
    if not config.agent.algorithm.startswith("q_lambda") and not config.env.is_few_shot:
        name = "actor_critic" if config.env.is_on_policy else "impala"
        plain = load(source, [*overrides, f"agent.algorithm={name}"])
        programs["acting"] = functools.partial(_acting, plain)
        programs["acting_and_updates"] = functools.partial(_training, plain)

    def add(name: str, variant: Config) -> None:
        same = variant == config
        programs[name] = whole if same else functools.partial(_training, variant)

    for seeds in _SEEDS:
        add(f"seeds={seeds}", config.model_copy(update={"seeds": seeds}))
    for by, values in (("inner_steps", _INNER_STEPS), ("bootstrap_steps", _BOOTSTRAP_STEPS)):
        for value in values:
            try:
                variant = load(source, [*overrides, f"meta.{by}={value}"])
                check(variant)
            except ConfigError:  # the algorithm fixes it
                continue
            if variant.learns:
                add(f"{by}={value}", variant)
    return programs


def _training(config: Config) -> Callable[[], int]:
    if config.env.is_few_shot:
        tasks = few_shot.build_tasks(config.few_shot, config.env.game, config.agent.network)
        return _repeated(few_shot.build_few_shot_learner(config, tasks))
    algorithm = on_device.build_algorithm(config, on_device.build_environment(config.env))
    return _repeated(on_device.build_seeds_learner(algorithm, config.learner, config.all_seeds))


def _acting(config: Config) -> Callable[[], int]:
    """Unrolls of parameters that nobody changes, in the arrangement of the learner."""
    environment, length = on_device.build_environment(config.env), config.learner.unroll_length
    if not config.env.is_on_policy:
        idle = on_device.with_players(
            config,
            environment,
            lambda a: a._replace(step=lambda state, online, further: (state, {})),
        )
        return _repeated(on_device.build_seeds_learner(idle, config.learner, config.all_seeds))
    network = make_network(
        config.agent.network, environment.num_actions, environment.observation_shape, jnp.float32
    )
    unroll = make_unroll(environment, network, length)

    def play(state: Any, key: jax.Array, weights: Any) -> tuple[Any, dict[str, jax.Array]]:
        del weights
        world, trajectory = unroll(state.inner.params, state.environment, key)
        return state._replace(environment=world, trajectory=trajectory), {}

    settings = make_settings(config)
    parts = on_device.build_parts(settings, environment, config.agent.network, length)
    algorithm = make_algorithm(parts._replace(update=play), settings)
    return _repeated(on_device.build_seeds_learner(algorithm, config.learner, config.all_seeds))


def _repeated(learner: SeedsLearner) -> Callable[[], int]:
    state = learner.place(learner.initial_state())

    def work() -> int:
        nonlocal state
        state, metrics = learner.step(state)
        jax.block_until_ready(metrics)
        return learner.steps * len(learner.seeds)

    work()  # compiles
    return work
