"""From an `EnvironmentSpec` to a vector environment, and its protocol in words."""

import importlib.metadata
from typing import Any, NamedTuple

from actors.environments.vector import EnvironmentSpec, VectorEnvironment


class Suite(NamedTuple):
    """What a suite of games knows."""

    runtimes: tuple[str, ...]  # `actors.runtime`: where its games can be played
    keys: tuple[str, ...] = ()  # of `env`, beside those that every suite knows
    games: tuple[str, ...] | None = None  # None: not listed here


SUITES = {
    "atari": Suite(
        ("ray", "in_process"),
        (
            *("frame_skip", "frame_stack", "sticky_actions", "full_action_space", "noop_max"),
            *("max_episode_frames", "life_loss_discount"),
        ),
    ),
    "catch": Suite(("ray", "in_process", "on_device"), ("change_every", "change_seed"), ("catch",)),
    # Tasks, no games: actors/tasks.
    "few_shot": Suite(("on_device",), (), ("sinusoid", "glyphs", "images")),
    "gymnasium": Suite(("ray", "in_process")),
    "minatar": Suite(
        ("ray", "in_process", "on_device"),
        (
            *("sticky_actions", "full_action_space", "max_episode_frames", "ramping"),
            *("change_every", "change_seed"),
        ),
        ("asterix", "breakout", "freeway", "seaquest", "space_invaders"),
    ),
    "two_colours": Suite(
        ("on_device",), ("swap_period", "respawn", "collection_discount"), ("two_colours",)
    ),
}


def make_environment(spec: EnvironmentSpec, num_envs: int, threads: int) -> VectorEnvironment:
    """Makes `num_envs` environments; the suite's own packages are imported only here.

    Raises:
        EnvironmentRefused: the environment cannot be made as configured.
    """
    if spec.suite == "atari":
        from actors.environments.atari import Atari

        return Atari(spec, num_envs, threads)
    if spec.suite == "catch" and spec.change_every is None:
        from actors.environments.catch import Catch

        return Catch(spec, num_envs, threads)
    if "on_device" in SUITES[spec.suite].runtimes:
        from actors.environments.device import OnHost, make_device_environment

        return OnHost(make_device_environment(spec), num_envs)
    from actors.environments.gymnasium_suite import GymnasiumSuite

    return GymnasiumSuite(spec, num_envs, threads)


# What else decides a score, beside the game.
_STAMPED = {
    "two_colours": ("swap_period", "respawn"),
    "minatar": ("sticky_actions", "full_action_space", "max_episode_frames", "ramping"),
}
_CHANGES = ("change_every", "change_seed")


def protocol(spec: EnvironmentSpec, reward_clip: float) -> dict[str, Any]:
    """How scores of this environment came about; stands beside each score in a run folder."""
    if spec.suite != "atari":
        packages = {"gymnasium": "gymnasium"} if spec.suite == "gymnasium" else {}
        versions = {name: importlib.metadata.version(package) for name, package in packages.items()}
        return {
            "suite": spec.suite,
            "game": spec.game,
            **versions,
            **{key: getattr(spec, key) for key in _STAMPED.get(spec.suite, ())},
            **{key: getattr(spec, key) for key in _CHANGES if spec.change_every is not None},
            "training_reward_clip": reward_clip,
        }
    return {
        "suite": spec.suite,
        "game": spec.game,
        "ale_py": importlib.metadata.version("ale-py"),
        "frame_skip": spec.frame_skip,
        "max_over_last_frames": 2 if spec.frame_skip > 1 else 1,
        "frame_stack": spec.frame_stack,
        "observation": "84x84 grey",
        "sticky_actions": spec.sticky_actions,
        "noop_max": spec.noop_max,
        "action_set": "full" if spec.full_action_space else "minimal",
        "max_episode_frames": spec.max_episode_frames,
        "fire_on_reset": False,
        "score": "raw rewards, all lives",
        "training_reward_clip": reward_clip,
        "training_life_loss_discount": spec.life_loss_discount,
    }
