"""Checks of `env`: which game is played, and how."""

import difflib

from actors.environments import atari_games
from actors.environments.suites import SUITES
from configs.load import ConfigError
from configs.names import ENVIRONMENT_ID, TABLES, game_of
from configs.schema import EnvironmentConfig


def check_game(env: EnvironmentConfig, protocol: str) -> None:
    """Refuses games that the suite does not have, and keys that it does not know.

    Args:
        env: what is played.
        protocol: of evaluations.

    Raises:
        ConfigError: one line.
    """
    suite = SUITES[env.suite]
    _check_env_keys(env)
    if env.suite != "atari" and protocol != "training":
        raise ConfigError(
            f"evaluation.protocol={protocol}: only env.suite=atari knows it; use training"
        )
    # A plugin's suite may have games of such names.
    if env.suite in TABLES["env.suite"].built_in and env.game not in (suite.games or ()):
        _check_atari_id(env)
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


def _check_atari_id(env: EnvironmentConfig) -> None:
    """Refuses Gymnasium's name of an Atari game, with what to write.

    Raises:
        ConfigError: it is one.
    """
    match = ENVIRONMENT_ID.fullmatch(env.game)
    if match is None or match["module"] or not match["name"].isalpha():
        return
    if env.suite != "atari" and not (match["ale"] or match["kind"]):
        return
    name = game_of(match)
    if name not in atari_games.BY_NAME:
        return
    write = f"env.game={name}" if env.suite == "atari" else f"env.suite=atari env.game={name}"
    sticky = match["version"] in ("0", "5")  # the others repeat no action by chance
    also = ", and env.sticky_actions=0.25 for sticky actions as there" if sticky else ""
    raise ConfigError(f"env.game={env.game}: write {write}{also}")


def _nearest_game(game: str) -> str:
    matches = difflib.get_close_matches(game.lower(), atari_games.BY_NAME, n=1, cutoff=0.5)
    hint = f"did you mean {matches[0]!r}? " if matches else ""
    return f"{hint}(`bmg games` lists the 57)"
