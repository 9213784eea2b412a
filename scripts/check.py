"""Checks that need more than one key, before anything is created or started."""

import difflib
import functools
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actors.environments import atari_games
from actors.environments.suites import SUITES
from actors.environments.vector import EnvironmentSpec
from actors.ray_address import ask_head
from actors.ray_folder import ray_folder
from agents.hyperparameters import HYPERPARAMETERS
from configs.load import ConfigError, ConfigErrors
from configs.schema import ActorsConfig, Config, EnvironmentConfig
from learner.run_folder import LOCK

_FILES = ("config.yaml", "metrics.jsonl", "summary.json", "log.txt", "seeds.npz", LOCK)
_FEW_SHOT_ALGORITHMS = ("maml", "fomaml", "bmg")
_ON_POLICY_ALGORITHMS = ("actor_critic", "mg", "bmg", "q_lambda", "q_lambda_bmg")


class RunFailed(Exception):
    """A run or an evaluation ended with a reason: exit 1, one line."""


def environment_spec(env: EnvironmentConfig) -> EnvironmentSpec:
    """The part of the `env` group that an environment is made from."""
    return EnvironmentSpec(**{name: getattr(env, name) for name in EnvironmentSpec._fields})


def new_unrolls(config: Config) -> int:
    """Unrolls of a batch that are not replayed."""
    return config.learner.batch_size - config.replay.unrolls


def frames_per_update(config: Config) -> int:
    """New frames in a batch, if no step of it is an auto-reset."""
    return new_unrolls(config) * config.learner.unroll_length * config.env.frame_skip


def schedule_frames(config: Config) -> int:
    """Frames over which the learning rate falls to 0."""
    return config.learner.schedule_frames or config.total_frames


def updates_of(config: Config, frames: int) -> int:
    """Learner updates that make so many frames."""
    return -(-frames // frames_per_update(config))


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


def keys_without_effect(config: Config, overrides: Sequence[str]) -> list[str]:
    """Keys of `meta` that overrides set, where no hyper-parameter is learned."""
    if learns(config):
        return []
    keys = dict.fromkeys(override.partition("=")[0] for override in overrides)
    # An outer value head is learned under meta.outer by whatever algorithm.
    acts = "meta.outer" if config.agent.outer_value_head else "none"
    return [key for key in keys if key.split(".")[0] == "meta" and not key.startswith(acts)]


def faults_of_game(config: Config) -> list[str]:
    """Those of `env` alone."""
    return _faults(config, (_check_game,))


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
    if is_few_shot(config):
        return  # which plays nowhere
    if runs_on_device(config):
        (_check_on_policy if is_on_policy(config) else _check_playing)(config)
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
    if new_unrolls(config) < 1:
        return  # which `_check_batch` refuses
    horizon = schedule_frames(config)
    if horizon < config.total_frames:
        raise ConfigError(
            f"learner.schedule_frames={horizon}: the learning rate would be 0 from there to "
            f"total_frames={config.total_frames}; raise the one or lower the other"
        )
    if updates_of(config, horizon) >= 2**31:
        key = "total_frames" if learner.schedule_frames is None else "learner.schedule_frames"
        raise ConfigError(
            f"{key}={horizon}: learner.learning_rate_schedule=linear counts to 2**31 updates; use "
            "constant, larger batches or fewer frames"
        )


def runs_on_device(config: Config) -> bool:
    """Whether the environment is part of the learner's program, and there are no actors."""
    return config.actors.runtime == "on_device"


def is_on_policy(config: Config) -> bool:
    """Whether the agent plays between its updates, not before each step of the learner."""
    return config.env.suite == "two_colours"


def is_few_shot(config: Config) -> bool:
    """Whether there are tasks to learn instead of a game to play."""
    return config.env.suite == "few_shot"


def _check_runtime(config: Config) -> None:
    allowed, runtime = SUITES[config.env.suite].runtimes, config.actors.runtime
    if runtime not in allowed:
        raise ConfigError(
            f"actors.runtime={runtime}: env.suite={config.env.suite} has {', '.join(allowed)}"
        )


def _check_algorithm(config: Config) -> None:
    everywhere, name = ("impala", "stacx", "bmg"), config.agent.algorithm
    allowed = _ON_POLICY_ALGORITHMS if is_on_policy(config) else everywhere
    if is_few_shot(config):
        allowed = _FEW_SHOT_ALGORITHMS
    if name not in allowed:
        raise ConfigError(
            f"agent.algorithm={name}: env.suite={config.env.suite} has {', '.join(allowed)}"
        )
    few_shot_networks = ("dense_40", "four_blocks")
    if is_few_shot(config) != (config.agent.network in few_shot_networks):
        raise ConfigError(
            f"agent.network={config.agent.network}: env.suite=few_shot has "
            f"{' and '.join(few_shot_networks)}, and no other suite has them"
        )
    if config.agent.network == "separate" and config.env.suite in ("atari", "catch"):
        raise ConfigError(
            f"agent.network=separate: it is for two_colours and vector observations; "
            f"env.suite={config.env.suite} has shallow, shallow_atari, deep"
        )


def _check_playing(config: Config) -> None:
    """Refuses what a learner that plays on its own device does not know."""
    meta = config.meta
    _require(config, {"replay.unrolls": 0, "evaluation.every_frames": 0})
    if learns(config) and meta.bootstrap_steps > 1 and not meta.keep_bootstrapped:
        raise ConfigError(
            f"meta.bootstrap_steps={meta.bootstrap_steps}: actors.runtime=on_device has no replay "
            "for the target's further steps; use meta.keep_bootstrapped=true, with which the "
            "learner goes on from them, or meta.bootstrap_steps=1"
        )


# There are none, so that whatever is said of them would be ignored.
_NO_ACTORS: dict[str, Any] = {
    f"actors.{key}": value for key, value in ActorsConfig().model_dump().items() if key != "runtime"
}


def _require(config: Config, required: dict[str, Any]) -> None:
    """Refuses values that a program which plays for itself would ignore."""
    for key, value in required.items():
        given: Any = config
        for part in key.split("."):
            given = getattr(given, part)
        if given != value:
            raise ConfigError(
                f"{key}={given}: must be {json.dumps(value)} for "
                f"agent.algorithm={config.agent.algorithm} on env.suite={config.env.suite}, whose "
                "environment runs in the learner's own program"
            )


def _check_on_policy(config: Config) -> None:
    """Refuses what an agent that plays between its updates does not know."""
    name = config.agent.algorithm
    required: dict[str, Any] = {
        "learner.batch_size": 1,
        "env.reward_clip": 0.0,
        "agent.auxiliary_heads": 0,
        "agent.outer_value_head": False,
        "replay.unrolls": 0,
        "replay.max_kl": 0.0,
        "meta.outer.kl_cost": 0.0,
        "meta.warmup_updates": 0,
        "hyperparameters_from": None,
        "evaluation.every_frames": 0,
    }
    if learns(config):
        required["meta.keep_bootstrapped"] = True
    if name.startswith("q_lambda"):
        required |= {"learner.unroll_length": 1, "learner.loss": "sum", "meta.inner_steps": 1}
        required |= {"agent.network": "separate", "meta.target_optimizer": "learner"}
    else:
        ignored = [key for key in _without_effect(config) if key != "epsilon"]
        required |= {f"agent.{key}": HYPERPARAMETERS[key].default for key in ignored}
        required |= {f"meta.outer.{key}": HYPERPARAMETERS[key].outer for key in ignored}
    _require(config, required | _NO_ACTORS)
    if name == "q_lambda_bmg" and config.meta.bootstrap_steps < 2:
        raise ConfigError(
            f"meta.bootstrap_steps={config.meta.bootstrap_steps}: must be at least 2; "
            "agent.algorithm=q_lambda_bmg plays and learns L - 1 steps to its target"
        )
    if not learns(config):
        return
    blind = {"l2", "value"} if name == "q_lambda_bmg" else set()
    if config.agent.network == "separate" and set(config.meta.learned) <= {
        "entropy_cost",
        "policy_cost",
    }:
        blind.add("value")  # of a network that these never reach
    if config.meta.matching in blind:
        raise ConfigError(
            f"meta.matching={config.meta.matching}: it does not depend on meta.learned="
            f"{config.meta.learned}, so nothing would be learned; use kl"
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
    if runs_on_device(config):
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


def part_of_process(config: Config) -> Config:
    """The configuration with this learner process's part of the batch."""
    learner, replay, processes = config.learner, config.replay, config.learner.processes
    size, unrolls = learner.batch_size // processes, replay.unrolls // processes
    return config.model_copy(
        update={
            "learner": learner.model_copy(update={"batch_size": size}),
            "replay": replay.model_copy(update={"unrolls": unrolls}),
        }
    )


def _check_batch(config: Config) -> None:
    config = part_of_process(config)
    new, envs = new_unrolls(config), config.actors.envs_per_actor
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
    if is_few_shot(config):
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
    if not learns(config):
        return
    if not config.meta.learned:
        plain = "actor_critic or q_lambda" if is_on_policy(config) else "impala"
        raise ConfigError(
            f"meta.learned=[]: agent.algorithm={config.agent.algorithm} has nothing to learn; name "
            f"hyper-parameters, or use agent.algorithm={plain}"
        )
    without_effect = _without_effect(config)
    for name in config.meta.learned:
        if name in without_effect:
            rest = [known for known in HYPERPARAMETERS if known not in without_effect]
            raise ConfigError(
                f"meta.learned={name}: it has no gradient with agent.algorithm="
                f"{config.agent.algorithm} and env.suite={config.env.suite}, which can learn "
                f"{', '.join(rest)}"
            )
        start, upper = hyperparameter_range(config, name)
        if start > upper or not upper:
            raise ConfigError(
                f"agent.{name}={start:g}: it is learned between 0 and {upper:g}; raise "
                f"meta.upper.{name}, or start lower"
            )


def _without_effect(config: Config) -> set[str]:
    """Hyper-parameters through which no meta-gradient flows."""
    if config.agent.algorithm.startswith("q_lambda"):
        return set(HYPERPARAMETERS) - {"epsilon"}
    of_vtrace = {"vtrace_lambda", "vtrace_leak", "vtrace_leak_rho", "vtrace_leak_c"}
    return {"epsilon"} | (of_vtrace if is_on_policy(config) else set())


def learns(config: Config) -> bool:
    """Whether hyper-parameters are learned in this run."""
    fixed = ("impala", "actor_critic", "q_lambda")
    return config.agent.algorithm not in fixed and config.hyperparameters_from is None


def hyperparameter_range(config: Config, name: str) -> tuple[float, float]:
    """Where a learned hyper-parameter starts and what it stays below."""
    entry = HYPERPARAMETERS[name]
    start: float = getattr(config.agent, name, entry.default)
    bound: float | None = getattr(config.meta.upper, name, None) or entry.upper
    if bound is None:
        bound = getattr(config.meta.outer, name, entry.outer)
    return start, bound or 0.0


def _check_game(config: Config) -> None:
    env = config.env
    suite = SUITES[env.suite]
    _check_env_keys(env)
    if env.suite != "atari" and config.evaluation.protocol != "training":
        raise ConfigError(
            f"evaluation.protocol={config.evaluation.protocol}: only env.suite=atari knows it; use "
            "training"
        )
    if env.suite == "atari" and env.game not in atari_games.BY_NAME:
        raise ConfigError(f"env.game={env.game}: unknown game; {_nearest_game(env.game)}")
    if suite.games is not None and env.game not in suite.games:
        games = ", ".join(map(repr, suite.games))
        count = "one game" if len(suite.games) == 1 else f"{len(suite.games)} games"
        raise ConfigError(f"env.game={env.game}: env.suite={env.suite} has {count}, {games}")


def _check_env_keys(env: EnvironmentConfig) -> None:
    """Refuses keys that act nowhere in the suite."""
    known = SUITES[env.suite].keys
    every = dict.fromkeys(key for suite in SUITES.values() for key in suite.keys)
    for key in every:
        default = EnvironmentConfig.model_fields[key].default
        if key in known or key in _FRAMES or getattr(env, key) == default:
            continue
        suites = [name for name, suite in SUITES.items() if key in suite.keys]
        raise ConfigError(
            f"env.{key}={getattr(env, key)}: only env.suite={' and '.join(suites)} "
            f"know{'s' if len(suites) == 1 else ''} it; leave it at {default}"
        )
    for key in _FRAMES:  # whose defaults are Atari's
        if key not in known and getattr(env, key) != 1:
            raise ConfigError(
                f"env.{key}={getattr(env, key)}: must be 1 for env.suite={env.suite}, which skips "
                "and stacks nothing"
            )


_FRAMES = ("frame_skip", "frame_stack")


def _nearest_game(game: str) -> str:
    matches = difflib.get_close_matches(game.lower(), atari_games.BY_NAME, n=1, cutoff=0.5)
    hint = f"did you mean {matches[0]!r}? " if matches else ""
    return f"{hint}(`bmg games` lists the 57)"


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

    (check_few_shot if is_few_shot(config) else check_without_tasks)(config)


_FIRST_CHECKS = (_check_game, _check_runtime, _check_algorithm)
_CHECKS = (
    _check_learned,
    _check_wandb,
    _check_processes,
    _check_where_it_plays,
    _check_schedule,
    _check_few_shot,
)


def check_run_folder(path: Path, *, resume: bool) -> None:
    """Refuses a folder that cannot be written, or that holds a run which would be overwritten.

    Raises:
        ConfigError: one line that says what to change.
    """
    for name in _FILES:
        if os.path.lexists(path / name) and not os.path.isfile(path / name):
            raise ConfigError(f"--run-dir {path}: its {name} is no file; move it away")
    check_folder(
        path,
        resume=resume,
        option="--run-dir",
        kind="run",
        marker="config.yaml",
        ignored=(LOCK, "config.yaml.partial"),
    )


def check_folder(
    path: Path,
    *,
    resume: bool,
    option: str,
    kind: str,
    marker: str,
    ignored: tuple[str, ...] = (),
) -> None:
    """Refuses a folder that cannot be written, or whose content would be overwritten.

    Args:
        path: need not exist.
        resume: it must hold what should go on; else it must hold nothing.
        option: that named the folder.
        kind: what goes into it.
        marker: the file that such a thing has.
        ignored: names that may be there all the same.

    Raises:
        ConfigError: one line that says what to change.
    """
    try:
        if resume and not (path / marker).is_file():
            raise ConfigError(f"--resume: {path} holds no {kind}; leave --resume out to start one")
        if (
            not resume
            and path.exists()
            and (not path.is_dir() or any(p.name not in ignored for p in path.iterdir()))
        ):
            raise ConfigError(
                f"{option} {path}: it exists already; --resume goes on with it, or give another "
                "folder"
            )
        existing = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
        # Permissions do not tell all: root may write everywhere, but not to every file system.
        os.rmdir(tempfile.mkdtemp(dir=existing))
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: cannot be written ({error.strerror}); give another folder"
        ) from None
