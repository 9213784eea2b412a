"""Checks that need more than one key, before anything is created or started."""

import difflib
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from actors.environments.suites import SUITES
from actors.environments.vector import EnvironmentSpec
from actors.ray_address import ask_head
from actors.ray_folder import ray_folder
from agents.hyperparameters import HYPERPARAMETERS
from configs.load import ConfigError, ConfigErrors
from configs.names import TABLES, added
from configs.schema import Config, EnvironmentConfig
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
    return _faults(config, _FIRST_CHECKS) or _faults(config, _CHECKS)


def keys_without_effect(config: Config, overrides: Sequence[str]) -> dict[str, str]:
    """Keys that overrides set and that act nowhere in this run, and why."""
    keys = dict.fromkeys(override.partition("=")[0] for override in overrides)
    ignored: dict[str, str] = {}
    if config.runs_on_device:
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


def faults_of_game(config: Config) -> list[str]:
    """Those of `env` alone."""
    return _faults(config, (check_game,))


def _faults(config: Config, parts: Sequence[Callable[[Config], None]]) -> list[str]:
    faults: list[str] = []
    for part in parts:
        try:
            part(config)
        except ConfigError as error:
            faults.append(str(error))
    return faults


def _check_wandb(config: Config) -> None:
    if config.logging.wandb and importlib.util.find_spec("wandb") is None:
        raise ConfigError("logging.wandb=true: install the extra: uv sync --extra wandb")


def _check_where_it_plays(config: Config) -> None:
    if config.is_few_shot:
        return  # which plays nowhere
    if config.runs_on_device:
        (check_on_policy if config.is_on_policy else check_playing)(config)
        return
    _check_batch(config)
    if config.seeds != 1:
        raise ConfigError(
            f"seeds={config.seeds}: several seeds in one program need actors.runtime=on_device; "
            "start a run for each seed"
        )
    if config.actors.runtime == "ray":
        _check_ray_address(config.actors.ray_address)
    elif config.actors.device != "cpu":
        raise ConfigError(
            f"actors.device={config.actors.device}: needs actors.runtime=ray; in_process plays "
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
    if config.new_unrolls < 1:
        return  # which `_check_batch` refuses
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


def _check_runtime(config: Config) -> None:
    allowed, runtime = SUITES[config.env.suite].runtimes, config.actors.runtime
    if runtime not in allowed:
        raise ConfigError(
            f"actors.runtime={runtime}: env.suite={config.env.suite} has {', '.join(allowed)}"
        )


def _check_algorithm(config: Config) -> None:
    everywhere, name = ("impala", "stacx", "bmg"), config.agent.algorithm
    allowed = _ON_POLICY_ALGORITHMS if config.is_on_policy else everywhere
    allowed = (*allowed, *added("agent.algorithm"))
    if config.is_few_shot:
        allowed = (*TABLES["agent.algorithm"].of_tasks, "bmg")
    if name not in allowed:
        raise ConfigError(
            f"agent.algorithm={name}: env.suite={config.env.suite} has {', '.join(allowed)}"
        )
    network, suite = config.agent.network, config.env.suite
    few_shot_networks = TABLES["agent.network"].of_tasks
    if config.is_few_shot != (network in few_shot_networks):
        raise ConfigError(
            f"agent.network={network}: env.suite=few_shot has "
            f"{' and '.join(few_shot_networks)}, and no other suite has them"
        )
    if (network, suite) in (("separate", "atari"), ("separate", "catch"), ("dense", "atari")):
        raise ConfigError(
            f"agent.network={network}: it is for two_colours and vector observations; "
            f"env.suite={suite} has shallow, shallow_atari, deep"
        )


def _check_processes(config: Config) -> None:
    learner = config.learner
    if learner.process >= learner.processes:
        raise ConfigError(
            f"learner.process={learner.process}: must be less than learner.processes="
            f"{learner.processes}; they are counted from 0"
        )
    if learner.processes == 1:
        return
    if config.runs_on_device:
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
        ("replay.unrolls", config.replay.unrolls),
    ):
        if unrolls % learner.processes:
            raise ConfigError(
                f"{key}={unrolls}: must be a multiple of learner.processes={learner.processes}, "
                "which share it"
            )


def _check_batch(config: Config) -> None:
    config = config.part_of_process()
    new, envs = config.new_unrolls, config.actors.envs_per_actor
    if new <= 0:
        raise ConfigError(
            f"replay.unrolls={config.replay.unrolls}: must be less than learner.batch_size="
            f"{config.learner.batch_size}, of which they are a part"
        )
    if new % envs:
        fits = next(n for n in range(envs, 0, -1) if new % n == 0)
        size = max(1, round(new / envs)) * envs + config.replay.unrolls
        replayed = (
            f" beside replay.unrolls={config.replay.unrolls}" if config.replay.unrolls else ""
        )
        raise ConfigError(
            f"learner.batch_size={config.learner.batch_size}: actors.envs_per_actor={envs} cannot "
            f"fill it{replayed}; it must be a multiple (try actors.envs_per_actor={fits} or "
            f"learner.batch_size={size})"
        )


def _check_learned(config: Config) -> None:
    """Refuses hyper-parameters that cannot be learned as asked."""
    if config.is_few_shot:
        return  # whose meta-parameters are weights; scripts/check_few_shot.py
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
        plain = "actor_critic or q_lambda" if config.is_on_policy else "impala"
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


def _check_few_shot(config: Config) -> None:
    from scripts.check_few_shot import check_few_shot, check_without_tasks

    (check_few_shot if config.is_few_shot else check_without_tasks)(config)


_FIRST_CHECKS = (check_game, _check_runtime, _check_algorithm)
_CHECKS = (
    _check_learned,
    _check_wandb,
    _check_processes,
    _check_where_it_plays,
    _check_schedule,
    _check_few_shot,
)
