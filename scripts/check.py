"""Checks that need more than one key, before anything is created or started."""

import difflib
import importlib.util
import os
import socket
from pathlib import Path

from actors.environments import atari_games
from actors.environments.vector import EnvironmentSpec
from configs.load import ConfigError
from configs.schema import Config, EnvironmentConfig

_PROBE_SECONDS = 5.0


def environment_spec(env: EnvironmentConfig) -> EnvironmentSpec:
    """The part of the `env` group that an environment is made from."""
    return EnvironmentSpec(**{name: getattr(env, name) for name in EnvironmentSpec._fields})


def check(config: Config) -> None:
    """Refuses configurations that cannot run, without importing jax or ray.

    Raises:
        ConfigError: one line that names the key, the value and what is allowed.
    """
    _check_game(config.env)
    batch, envs = config.learner.batch_size, config.actors.envs_per_actor
    if batch % envs:
        fits = next(n for n in range(envs, 0, -1) if batch % n == 0)
        raise ConfigError(
            f"learner.batch_size={batch}: actors.envs_per_actor={envs} cannot fill it; it must be "
            f"a multiple (try actors.envs_per_actor={fits} or learner.batch_size="
            f"{max(1, round(batch / envs)) * envs})"
        )
    if config.logging.wandb and importlib.util.find_spec("wandb") is None:
        raise ConfigError("logging.wandb=true: install the extra: uv sync --extra wandb")
    if config.actors.runtime == "ray":
        _check_ray_address(config.actors.ray_address)


def _check_game(env: EnvironmentConfig) -> None:
    if env.suite == "atari":
        if env.game not in atari_games.BY_NAME:
            raise ConfigError(f"env.game={env.game}: unknown game; {_nearest_game(env.game)}")
        return
    if env.suite == "catch" and env.game != "catch":
        raise ConfigError(f"env.game={env.game}: env.suite=catch has one game, 'catch'")
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
        socket.create_connection((host, int(port)), _PROBE_SECONDS).close()
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
    if resume:
        if not (path / "config.yaml").is_file():
            raise ConfigError(f"--resume: {path} holds no run; leave --resume out to start one")
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(
            f"--run-dir {path}: it exists already; --resume goes on with it, or give another folder"
        )
    existing = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"--run-dir {path}: cannot write to {existing}; give another --run-dir")
