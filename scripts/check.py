"""Checks that need more than one key, before anything is created or started."""

import difflib
import importlib.util
import os
import socket
import tempfile
from pathlib import Path

from actors.environments import atari_games
from actors.environments.vector import EnvironmentSpec
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
