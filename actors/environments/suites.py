"""The suites of games: what makes them, where they play, what they know; protocols in words."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from actors.environments.vector import (
    EnvironmentRefused,
    EnvironmentSpec,
    VectorEnvironment,
    told,
)

if TYPE_CHECKING:  # a suite's own packages, and JAX, are imported when it is made
    from actors.environments.device import DeviceEnvironment
    from actors.environments.two_colours import Respawn

# (specification, number of environments, threads) -> environments
MakeEnvironment = Callable[[EnvironmentSpec, int, int], VectorEnvironment]
MakeOnDevice = Callable[[EnvironmentSpec], "DeviceEnvironment"]


class Suite(NamedTuple):
    """A suite of games, made for the host, for the learner's device, or for both."""

    make: MakeEnvironment | None = None  # on the host; None: a view of what is made on the device
    on_device: MakeOnDevice | None = None
    keys: tuple[str, ...] = ()  # of `env`, beside those that every suite knows
    games: tuple[str, ...] | None = None  # None: not listed here
    device_only: bool = False  # how its agents learn has no place for actors

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Where its games can be played, as `actors.runtime` has it."""
        here = () if self.on_device is None else ("on_device",)
        return here if self.device_only else ("ray", "in_process", *here)


def _atari(spec: EnvironmentSpec, num_envs: int, threads: int) -> VectorEnvironment:
    from actors.environments.atari import Atari

    return Atari(spec, num_envs, threads)


def _catch(spec: EnvironmentSpec, num_envs: int, threads: int) -> VectorEnvironment:
    if spec.change_every is not None:
        return _host_view(spec, num_envs)
    from actors.environments.catch import Catch

    return Catch(spec, num_envs, threads)


def _catch_on_device(spec: EnvironmentSpec) -> DeviceEnvironment:
    from actors.environments.device import make_catch

    del spec
    return make_catch()


def _gymnasium(spec: EnvironmentSpec, num_envs: int, threads: int) -> VectorEnvironment:
    from actors.environments.gymnasium_suite import GymnasiumSuite

    return GymnasiumSuite(spec, num_envs, threads)


def _minatar(spec: EnvironmentSpec) -> DeviceEnvironment:
    from actors.environments.device import make_minatar

    return make_minatar(
        spec.game,
        sticky_actions=spec.sticky_actions,
        ramping=spec.ramping,
        minimal_actions=not spec.full_action_space,
        max_episode_steps=spec.max_episode_frames,
    )


def _two_colours(spec: EnvironmentSpec) -> DeviceEnvironment:
    from actors.environments.device import make_two_colours

    respawn = cast("Respawn", spec.respawn)
    return make_two_colours(spec.swap_period, respawn, spec.collection_discount)


def _tasks(spec: EnvironmentSpec) -> DeviceEnvironment:
    raise EnvironmentRefused(f"env.suite={spec.suite}: these are tasks, and no environment")


_CHANGES = ("change_every", "change_seed")
SUITES: dict[str, Suite] = {
    "atari": Suite(
        _atari,
        keys=(
            *("frame_skip", "frame_stack", "sticky_actions", "full_action_space", "noop_max"),
            *("max_episode_frames", "life_loss_discount", "stagger_frames"),
        ),
    ),
    "catch": Suite(_catch, _catch_on_device, _CHANGES, ("catch",)),
    # Tasks, no games: actors/tasks.
    "few_shot": Suite(on_device=_tasks, games=("sinusoid", "glyphs", "images"), device_only=True),
    "gymnasium": Suite(_gymnasium, keys=("stagger_frames",)),
    "minatar": Suite(
        on_device=_minatar,
        keys=("sticky_actions", "full_action_space", "max_episode_frames", "ramping", *_CHANGES),
        games=("asterix", "breakout", "freeway", "seaquest", "space_invaders"),
    ),
    "two_colours": Suite(
        on_device=_two_colours,
        keys=("swap_period", "respawn", "collection_discount"),
        games=("two_colours",),
        device_only=True,
    ),
}

_BUILT_IN = frozenset(SUITES)


def make_environment(spec: EnvironmentSpec, num_envs: int, threads: int) -> VectorEnvironment:
    """Makes `num_envs` environments on the host.

    Raises:
        EnvironmentRefused: the environment cannot be made as configured.
    """
    if spec.suite not in SUITES:
        raise EnvironmentRefused(f"env.suite={spec.suite}: there are {', '.join(SUITES)}")
    make = SUITES[spec.suite].make
    return _host_view(spec, num_envs) if make is None else make(spec, num_envs, threads)


def _host_view(spec: EnvironmentSpec, num_envs: int) -> VectorEnvironment:
    from actors.environments.device import OnHost

    return OnHost(make_device_environment(spec), num_envs)


def check_environment(spec: EnvironmentSpec, seed: int, *, on_device: bool = False) -> None:
    """Plays a step of what a plugin or a user's module has brought, and is not known to be right.

    Args:
        spec: of a suite.
        seed: of its first reset.
        on_device: whether it will be played there.

    Raises:
        EnvironmentRefused: what does not fit.
    """
    if spec.suite in _BUILT_IN and spec.suite != "gymnasium":
        return
    try:
        _check(spec, seed, on_device)
    except EnvironmentRefused:
        raise
    except (Exception, SystemExit) as error:  # whatever a third party's code raises
        raise EnvironmentRefused(f"it cannot be played: {told(error)}") from error


def _check(spec: EnvironmentSpec, seed: int, on_device: bool) -> None:
    import numpy as np

    from actors.environments import contract

    if spec.suite == "gymnasium":
        from actors.environments.gymnasium_suite import make_one

        single, made = make_one(spec)
        contract.check_gymnasium(single)
        with contextlib.suppress(Exception, SystemExit):  # it has been played all the same
            made.close()
        return
    suite = SUITES[spec.suite]
    if suite.make is None or on_device:
        contract.check_device(_made("on_device", suite.on_device, spec), carried=on_device)
    else:
        environment = _made("make", suite.make, spec, 1, 1)
        contract.check_vector(environment, np.array([seed]))
        environment.close()


def _made(name: str, make: Any, *given: Any) -> Any:
    try:
        return make(*given)
    except EnvironmentRefused:
        raise
    except Exception as error:  # whatever a third party's maker raises
        raise EnvironmentRefused(f"the suite's {name} raised {told(error)}") from error


def make_device_environment(spec: EnvironmentSpec) -> DeviceEnvironment:
    """Makes an environment of a suite that can be played on the device."""
    from actors.environments.device import changing

    on_device = SUITES[spec.suite].on_device
    assert on_device is not None
    environment = on_device(spec)
    if spec.change_every is None:
        return environment
    return changing(environment, spec.change_every, spec.change_seed)


# What else decides a score, beside the game.
_STAMPED = {
    "two_colours": ("swap_period", "respawn"),
    "minatar": ("sticky_actions", "full_action_space", "max_episode_frames", "ramping"),
}


def protocol(spec: EnvironmentSpec, reward_clip: float) -> dict[str, Any]:
    """How scores of this environment came about; stands beside each score in a run folder."""
    staggered = {"training_stagger_frames": spec.stagger_frames} if spec.stagger_frames else {}
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
            **staggered,
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
        **staggered,
    }
