"""Checks that need more than one key, before anything is created or started."""

import difflib
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from actors.environments.suites import SUITES
from actors.environments.vector import EnvironmentSpec
from actors.ray_address import ask_head
from actors.ray_folder import ray_folder
from agents.hyperparameters import HYPERPARAMETERS
from configs.load import ConfigError, ConfigErrors
from configs.names import TABLES, added
from configs.schema import (
    ActorsConfig,
    AgentConfig,
    Config,
    EnvironmentConfig,
    LearnerConfig,
    LoggingConfig,
    ReplayConfig,
)
from scripts.check_game import check_game
from scripts.check_on_device import check_on_policy, check_playing

_log = logging.getLogger(__name__)
_ON_POLICY_ALGORITHMS = ("actor_critic", "mg", "bmg", "q_lambda", "q_lambda_bmg")


class RunFailed(Exception):
    """A run or an evaluation ended with a reason: exit 1, one line."""


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, or XLA, did not get the memory that it asked for."""
    return isinstance(error, MemoryError) or str(error).startswith("RESOURCE_EXHAUSTED")


def environment_spec(env: EnvironmentConfig) -> EnvironmentSpec:
    """The part of the `env` group that an environment is made from."""
    return EnvironmentSpec(**{name: getattr(env, name) for name in EnvironmentSpec._fields})


def check(config: Config) -> None:
    """Refuses configurations that cannot run, without importing jax or ray.

    Raises:
        ConfigErrors: each line names a key, its value and what is allowed.
    """
    if faults := all_faults(config):
        raise ConfigErrors(faults)


def all_faults(config: Config) -> list[str]:
    """Every line that `check` would tell.

    What is wrong with the game or the algorithm comes alone: it would cause others.
    """
    return _faults(_first_checks(config)) or _faults(_checks(config))


def keys_without_effect(config: Config, overrides: Sequence[str]) -> dict[str, str]:
    """Keys that overrides set and that act nowhere in this run, and why."""
    keys = dict.fromkeys(override.partition("=")[0] for override in overrides)
    ignored: dict[str, str] = {}
    if config.actors.on_device:
        of_actors = [k for k in keys if k.startswith("actors.") and k != "actors.runtime"]
        ignored |= dict.fromkeys(of_actors, "actors.runtime=on_device has no actors")
    if not config.learns and config.agent.algorithm not in added("agent.algorithm"):
        # An outer value head is learned under meta.outer by whatever algorithm.
        acts = "meta.outer" if config.agent.outer_value_head else "none"
        of_meta = [k for k in keys if k.split(".")[0] == "meta" and not k.startswith(acts)]
        ignored |= dict.fromkeys(of_meta, "no hyper-parameter is learned")
    return ignored


def say_without_effect(keys: Mapping[str, str]) -> None:
    """Warns of keys that were given and act nowhere; once it is known that the run starts."""
    for key, why in keys.items():
        _log.warning("bmg: %s acts nowhere: %s", key, why)


def faults_of_game(env: EnvironmentConfig, protocol: str) -> list[str]:
    """Those of `env` alone, and of the protocol of evaluations."""
    return _faults([partial(check_game, env, protocol)])


# Raises `ConfigError` with one line.
_Check = Callable[[], None]


def _faults(checks: Iterable[_Check]) -> list[str]:
    faults: list[str] = []
    for check_part in checks:
        try:
            check_part()
        except ConfigError as error:
            faults.append(str(error))
    return faults


def _first_checks(config: Config) -> Iterator[_Check]:
    env, agent = config.env, config.agent
    yield partial(check_game, env, config.evaluation.protocol)
    yield partial(_check_runtime, env.suite, config.actors.runtime)
    yield partial(_check_algorithm, agent, env)


def _checks(config: Config) -> Iterator[_Check]:
    from scripts.check_few_shot import check_few_shot, check_without_tasks

    env, actors, learner, replay = config.env, config.actors, config.learner, config.replay
    if not env.is_few_shot:  # which learns first weights
        yield partial(_check_learned, config)
    yield partial(_check_wandb, config.logging)
    yield partial(_check_processes, learner, replay, actors)
    if actors.on_device and not env.is_few_shot:  # which plays nowhere
        yield partial(check_on_policy if env.is_on_policy else check_playing, config)
    elif not env.is_few_shot:
        part = config.part_of_process()
        yield partial(_check_batch, part.learner, part.replay, actors.envs_per_actor)
        yield partial(_check_actors, actors, config.seeds)
    if config.new_unrolls > 0:  # else `_check_batch` refuses
        yield partial(_check_schedule, config)
    if env.is_few_shot:
        yield partial(check_few_shot, config)
    else:
        yield partial(check_without_tasks, config.few_shot, env.suite)


def _check_wandb(logging: LoggingConfig) -> None:
    if logging.wandb and importlib.util.find_spec("wandb") is None:
        raise ConfigError("logging.wandb=true: install the extra: uv sync --extra wandb")


def _check_actors(actors: ActorsConfig, seeds: int) -> None:
    if seeds != 1:
        raise ConfigError(
            f"seeds={seeds}: several seeds in one program need actors.runtime=on_device; "
            "start a run for each seed"
        )
    if actors.runtime == "ray":
        _check_ray_address(actors.ray_address)
    elif actors.device != "cpu":
        raise ConfigError(
            f"actors.device={actors.device}: needs actors.runtime=ray; in_process plays "
            "on the learner's own device"
        )


def _check_schedule(config: Config) -> None:
    learner = config.learner
    if learner.learning_rate_schedule != "linear":
        if learner.schedule_frames is not None:
            raise ConfigError(
                f"learner.schedule_frames={learner.schedule_frames}: a rate with "
                f"learner.learning_rate_schedule={learner.learning_rate_schedule} has no horizon; "
                "leave it out, or use linear"
            )
        return
    horizon = config.horizon
    if horizon < config.total_frames:
        raise ConfigError(
            f"learner.schedule_frames={horizon}: the learning rate would be 0 from there to "
            f"total_frames={config.total_frames}; raise the one or lower the other"
        )
    if config.updates_of(horizon) >= 2**31:
        key = "total_frames" if learner.schedule_frames is None else "learner.schedule_frames"
        raise ConfigError(
            f"{key}={horizon}: learner.learning_rate_schedule=linear counts to 2**31 updates; use "
            "constant, larger batches or fewer frames"
        )


def _check_runtime(suite: str, runtime: str) -> None:
    allowed = SUITES[suite].runtimes
    if runtime not in allowed:
        raise ConfigError(f"actors.runtime={runtime}: env.suite={suite} has {', '.join(allowed)}")


def _check_algorithm(agent: AgentConfig, env: EnvironmentConfig) -> None:
    everywhere, name, suite = ("impala", "stacx", "bmg"), agent.algorithm, env.suite
    allowed = _ON_POLICY_ALGORITHMS if env.is_on_policy else everywhere
    allowed = (*allowed, *added("agent.algorithm"))
    if env.is_few_shot:
        allowed = (*TABLES["agent.algorithm"].of_tasks, "bmg")
    if name not in allowed:
        raise ConfigError(f"agent.algorithm={name}: env.suite={suite} has {', '.join(allowed)}")
    network = agent.network
    few_shot_networks = TABLES["agent.network"].of_tasks
    if env.is_few_shot != (network in few_shot_networks):
        raise ConfigError(
            f"agent.network={network}: env.suite=few_shot has "
            f"{' and '.join(few_shot_networks)}, and no other suite has them"
        )
    if (network, suite) in (("separate", "atari"), ("separate", "catch"), ("dense", "atari")):
        raise ConfigError(
            f"agent.network={network}: it is for two_colours and vector observations; "
            f"env.suite={suite} has shallow, shallow_atari, deep"
        )


def _check_processes(learner: LearnerConfig, replay: ReplayConfig, actors: ActorsConfig) -> None:
    if learner.process >= learner.processes:
        raise ConfigError(
            f"learner.process={learner.process}: must be less than learner.processes="
            f"{learner.processes}; they are counted from 0"
        )
    if learner.processes == 1:
        return
    if actors.on_device:
        raise ConfigError(
            f"learner.processes={learner.processes}: actors.runtime=on_device runs in one "
            "process; give each its own seeds (seed, seeds)"
        )
    if learner.coordinator is None or not learner.coordinator.rpartition(":")[2].isdigit():
        raise ConfigError(
            f"learner.coordinator={learner.coordinator}: must be host:port of process 0, the same "
            f"for all {learner.processes} processes"
        )
    for key, unrolls in (
        ("learner.batch_size", learner.batch_size),
        ("replay.unrolls", replay.unrolls),
    ):
        if unrolls % learner.processes:
            raise ConfigError(
                f"{key}={unrolls}: must be a multiple of learner.processes={learner.processes}, "
                "which share it"
            )


def _check_batch(learner: LearnerConfig, replay: ReplayConfig, envs: int) -> None:
    """Refuses a learner process's part of a batch that its actors cannot fill."""
    size, replayed = learner.batch_size, replay.unrolls
    new = size - replayed
    if new <= 0:
        raise ConfigError(
            f"replay.unrolls={replayed}: must be less than learner.batch_size={size}, of which "
            "they are a part"
        )
    if new % envs:
        fits = next(n for n in range(envs, 0, -1) if new % n == 0)
        fitting = max(1, round(new / envs)) * envs + replayed
        beside = f" beside replay.unrolls={replayed}" if replayed else ""
        raise ConfigError(
            f"learner.batch_size={size}: actors.envs_per_actor={envs} cannot fill it{beside}; it "
            f"must be a multiple (try actors.envs_per_actor={fits} or learner.batch_size={fitting})"
        )


def _check_learned(config: Config) -> None:
    """Refuses hyper-parameters that cannot be learned as asked."""
    for name in config.meta.learned:
        if name not in HYPERPARAMETERS:
            close = difflib.get_close_matches(name, HYPERPARAMETERS, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(
                f"meta.learned={name}: no such hyper-parameter; {hint}there are "
                f"{', '.join(HYPERPARAMETERS)}"
            )
    if config.hyperparameters_from is not None:
        if not os.path.isfile(Path(config.hyperparameters_from) / "metrics.jsonl"):
            raise ConfigError(
                f"hyperparameters_from={config.hyperparameters_from}: holds no run (no "
                "metrics.jsonl); give a run folder"
            )
        return
    if not config.learns:
        return
    if not config.meta.learned:
        plain = "actor_critic or q_lambda" if config.env.is_on_policy else "impala"
        raise ConfigError(
            f"meta.learned=[]: agent.algorithm={config.agent.algorithm} has nothing to learn; name "
            f"hyper-parameters, or use agent.algorithm={plain}"
        )
    without_gradient = config.without_gradient
    for name in config.meta.learned:
        if name in without_gradient:
            rest = [known for known in HYPERPARAMETERS if known not in without_gradient]
            raise ConfigError(
                f"meta.learned={name}: it has no gradient with agent.algorithm="
                f"{config.agent.algorithm} and env.suite={config.env.suite}, which can learn "
                f"{', '.join(rest)}"
            )
        start, upper = config.hyperparameter_range(name)
        if start > upper or not upper:
            raise ConfigError(
                f"agent.{name}={start:g}: it is learned between 0 and {upper:g}; raise "
                f"meta.upper.{name}, or start lower"
            )


@functools.cache  # a sweep asks for each of its trials
def _unanswered(address: str) -> OSError | None:
    try:
        ask_head(address)
    except OSError as error:
        return error
    return None


def _check_ray_address(address: str | None) -> None:
    if address is None:
        try:
            ray_folder()
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return
    if address == "auto":
        return  # "auto" is looked up when Ray is joined, still before the run folder is made
    try:
        error = _unanswered(address)
    except ValueError:
        raise ConfigError(f"actors.ray_address={address}: must be auto or host:port") from None
    if error is not None:
        raise ConfigError(
            f"actors.ray_address={address}: no Ray cluster answers there ({error}); start one with "
            "`ray start --head`, or leave the key out to use this machine"
        )
