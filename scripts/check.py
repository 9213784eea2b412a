"""Checks that need more than one key, before anything is created or started."""

import difflib
import importlib.util
import os
import socket
import tempfile
from pathlib import Path

from actors.environments import atari_games
from actors.environments.vector import EnvironmentSpec
from agents.hyperparameters import HYPERPARAMETERS
from configs.load import ConfigError
from configs.schema import Config, EnvironmentConfig

_ATARI_ONLY = (
    "sticky_actions",
    "full_action_space",
    "noop_max",
    "max_episode_frames",
    "life_loss_discount",
)
_PROBE_SECONDS = 5.0
# Ray's head node speaks gRPC, so it answers the HTTP/2 preface with a SETTINGS frame. Asking first
# takes milliseconds; Ray itself would try for minutes and then end the process.
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HTTP2_SETTINGS = bytes([4])


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


def total_updates(config: Config) -> int:
    """Learner updates in the whole run."""
    return -(-config.total_frames // frames_per_update(config))


def check(config: Config) -> None:
    """Refuses configurations that cannot run, without importing jax or ray.

    Raises:
        ConfigError: one line that names the key, the value and what is allowed.
    """
    _check_game(config.env)
    _check_batch(config)
    _check_learned(config)
    if config.logging.wandb and importlib.util.find_spec("wandb") is None:
        raise ConfigError("logging.wandb=true: install the extra: uv sync --extra wandb")
    if config.actors.runtime == "ray":
        _check_ray_address(config.actors.ray_address)


def _check_batch(config: Config) -> None:
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
    for name in config.meta.learned:
        if name not in HYPERPARAMETERS:
            close = difflib.get_close_matches(name, HYPERPARAMETERS, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(
                f"meta.learned={name}: no such hyper-parameter; {hint}there are "
                f"{', '.join(HYPERPARAMETERS)}"
            )
    if config.hyperparameters_from is not None:
        if not (Path(config.hyperparameters_from) / "metrics.jsonl").is_file():
            raise ConfigError(
                f"hyperparameters_from={config.hyperparameters_from}: holds no run (no "
                "metrics.jsonl); give a run folder"
            )
        return
    if config.agent.algorithm == "impala":
        return
    if not config.meta.learned:
        raise ConfigError(
            f"meta.learned=[]: agent.algorithm={config.agent.algorithm} has nothing to learn; name "
            "hyper-parameters, or use agent.algorithm=impala"
        )
    for name in config.meta.learned:
        start, upper = hyperparameter_range(config, name)
        if start > upper or not upper:
            raise ConfigError(
                f"agent.{name}={start:g}: it is learned between 0 and {upper:g}; raise "
                f"meta.upper.{name}, or start lower"
            )


def hyperparameter_range(config: Config, name: str) -> tuple[float, float]:
    """Where a learned hyper-parameter starts and what it stays below."""
    entry = HYPERPARAMETERS[name]
    start: float = getattr(config.agent, name, entry.default)
    bound: float | None = getattr(config.meta.upper, name, None) or entry.upper
    if bound is None:
        bound = getattr(config.meta.outer, name, entry.outer)
    return start, bound or 0.0


def _check_game(env: EnvironmentConfig) -> None:
    if env.suite == "atari":
        if env.game not in atari_games.BY_NAME:
            raise ConfigError(f"env.game={env.game}: unknown game; {_nearest_game(env.game)}")
        return
    if env.suite == "catch" and env.game != "catch":
        raise ConfigError(f"env.game={env.game}: env.suite=catch has one game, 'catch'")
    for key in _ATARI_ONLY:
        default = EnvironmentConfig.model_fields[key].default
        if getattr(env, key) != default:
            raise ConfigError(
                f"env.{key}={getattr(env, key)}: only env.suite=atari knows it; leave it at "
                f"{default}"
            )
    for key in ("frame_skip", "frame_stack"):
        if getattr(env, key) != 1:
            raise ConfigError(
                f"env.{key}={getattr(env, key)}: must be 1 for env.suite={env.suite}, "
                "which skips and stacks nothing"
            )


def _nearest_game(game: str) -> str:
    matches = difflib.get_close_matches(game.lower(), atari_games.BY_NAME, n=1, cutoff=0.5)
    hint = f"did you mean {matches[0]!r}? " if matches else ""
    return f"{hint}(`bmg games` lists the 57)"


def _check_ray_address(address: str | None) -> None:
    if address is None or address == "auto":
        return  # "auto" is looked up when Ray is joined, still before the run folder is made
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise ConfigError(f"actors.ray_address={address}: must be auto or host:port")
    try:
        with socket.create_connection((host, int(port)), _PROBE_SECONDS) as connection:
            connection.sendall(_HTTP2_GREETING)
            if connection.recv(9)[3:4] != _HTTP2_SETTINGS:
                raise OSError("what answers is no Ray head node")
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"actors.ray_address={address}: no Ray cluster answers there ({error}); start one with "
            "`ray start --head`, or leave the key out to use this machine"
        ) from None


def check_run_folder(path: Path, *, resume: bool) -> None:
    """Refuses a folder that cannot be written, or that holds a run which would be overwritten.

    Raises:
        ConfigError: one line that says what to change.
    """
    try:
        if resume and not (path / "config.yaml").is_file():
            raise ConfigError(f"--resume: {path} holds no run; leave --resume out to start one")
        if not resume and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(
                f"--run-dir {path}: it exists already; --resume goes on with it, or give another "
                "folder"
            )
        existing = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
        # Permissions do not tell all: root may write everywhere, but not to every file system.
        os.rmdir(tempfile.mkdtemp(dir=existing))
    except OSError as error:
        raise ConfigError(
            f"--run-dir {path}: cannot be written ({error.strerror}); give another folder"
        ) from None
