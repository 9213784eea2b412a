"""Any Gymnasium environment with discrete actions, by its id.

Observations are vectors, images or numbers of states.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from actors.environments.vector import EnvironmentRefused, EnvironmentSpec, Timestep, told

_log = logging.getLogger(__name__)


class GymnasiumSuite:
    """B environments stepped in this process; see `VectorEnvironment`. A frame is a step.

    The id is one that `gymnasium.make` takes, `package.module:Name-v0` included, which imports
    the module that registers it; also from the current folder, if it is installed nowhere.
    """

    frame_stack = 0

    def __init__(self, spec: EnvironmentSpec, num_envs: int, threads: int) -> None:
        del threads  # gymnasium steps them one after the other
        with _making(spec.game):
            self._environment = gymnasium.make_vec(
                spec.game,
                num_envs,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": AutoresetMode.NEXT_STEP},
            )
        self.num_envs = num_envs
        actions = self._environment.single_action_space
        if not isinstance(actions, gymnasium.spaces.Discrete):
            raise EnvironmentRefused(f"its actions are {actions}, not Discrete")
        self.num_actions = int(actions.n)
        self._first_action = int(actions.start)
        space = self._environment.single_observation_space
        self._one_hot: np.ndarray | None = None
        if isinstance(space, gymnasium.spaces.Discrete):
            self._one_hot = np.eye(int(space.n), dtype=np.float32)
            self._first_observation = int(space.start)
            self.observation_shape, self.observation_dtype = (int(space.n),), np.float32
            return
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) not in (1, 3):
            raise EnvironmentRefused(
                f"its observations are {space}, not a Discrete, or a Box of rank 1 (a "
                "vector) or 3 (an image [H, W, C]); wrap the environment to make them so"
            )
        self.observation_shape = space.shape
        self.observation_dtype = np.uint8 if space.dtype == np.uint8 else np.float32

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Starts all episodes, each environment from its own seed."""
        with _no_exit():
            observation, _ = self._environment.reset(
                seed=[int(seed) for seed in seeds]  # type: ignore[arg-type]  # a list is documented
            )
        self._ended = np.zeros(self.num_envs, bool)
        self._frames = np.zeros(self.num_envs, np.int32)
        return self._seen(observation)

    def restart(self, which: np.ndarray) -> np.ndarray:
        """Begins some episodes anew; see `Restartable`."""
        with _no_exit():
            observation, _ = self._environment.reset(options={"reset_mask": which})
        self._ended = self._ended & ~which
        self._frames = np.where(which, 0, self._frames)
        return self._seen(observation)

    def step(self, action: np.ndarray) -> Timestep:
        """Plays one action in each environment."""
        with _no_exit():
            observation, reward, terminated, truncated, _ = self._environment.step(
                action + self._first_action
            )
        valid = ~self._ended
        self._ended = terminated | truncated
        self._frames = np.where(valid, self._frames + 1, 0)
        return Timestep(
            observation=self._seen(observation),
            reward=reward.astype(np.float32),
            discount=np.where(terminated, np.float32(0), np.float32(1)),
            ended=self._ended,
            valid=valid,
            frames=self._frames,
        )

    def _seen(self, observation: np.ndarray) -> np.ndarray:
        """Observations [B, ...] as the network sees them; numbers of states as one-hot rows."""
        if self._one_hot is not None:
            return self._one_hot[observation - self._first_observation]
        return observation.astype(self.observation_dtype)

    def close(self) -> None:
        """Closes all of them; one that cannot be closed has been played all the same."""
        try:
            with _no_exit():
                self._environment.close()
        except Exception as error:  # whatever a third party's environment raises
            _log.warning("closing an environment raised %s: %s", type(error).__name__, error)


# What gymnasium puts around an environment by itself, and what fails in a way of its own in there.
_GYMNASIUMS_OWN = (
    gymnasium.wrappers.TimeLimit,
    gymnasium.wrappers.OrderEnforcing,
    gymnasium.wrappers.PassiveEnvChecker,
)


def make_one(spec: EnvironmentSpec) -> tuple[gymnasium.Env, gymnasium.Env]:
    """Makes a single environment: without gymnasium's own wrappers, and to be closed.

    Raises:
        EnvironmentRefused: it cannot be made.
    """
    with _making(spec.game):
        made = gymnasium.make(spec.game, disable_env_checker=True)
    single = made
    while isinstance(single, _GYMNASIUMS_OWN):
        single = single.env
    return single, made


@contextlib.contextmanager
def _making(game: str) -> Iterator[None]:
    """Around making environments, of a module in the current folder as well.

    Raises:
        EnvironmentRefused: they cannot be made; the message says what to change.
    """
    module, colon, _ = game.partition(":")
    if colon and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: what lies there by chance replaces nothing
    try:
        with _no_exit():
            yield
    except ModuleNotFoundError as error:
        hint, missing = "", error.name or getattr(error.__cause__, "name", None)
        if f"{module}.".startswith(f"{missing}."):
            hint = f"; start bmg in the folder that {module} lies in, or install it"
        raise EnvironmentRefused(
            f"gymnasium cannot make it: {str(error).split('. ')[0]}{hint}"
        ) from error
    except gymnasium.error.UnregisteredEnv as error:
        hint = "" if colon else "; one of your own is MODULE:ID, with the module that registers it"
        raise EnvironmentRefused(
            f"gymnasium cannot make it: {str(error).rstrip('.')}{hint}"
        ) from error
    except Exception as error:  # whatever a third party's constructor raises
        raise EnvironmentRefused(f"gymnasium cannot make it: {told(error)}") from error


@contextlib.contextmanager
def _no_exit() -> Iterator[None]:
    """Makes an error of an `exit()`, with which a game would end the run as if it had finished."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"it called exit({error.code!r})") from error


def render(spec: EnvironmentSpec, seed: int, actions: Sequence[int]) -> Iterator[np.ndarray]:
    """Plays recorded actions again and yields the environment's own pictures, [H, W, 3] uint8.

    Raises:
        EnvironmentRefused: it draws no pictures.
    """
    try:
        with _no_exit():
            environment = gymnasium.make(spec.game, render_mode="rgb_array")
            environment.reset(seed=seed)
            first = int(environment.action_space.start)  # type: ignore[attr-defined]
            for action in actions:
                yield np.asarray(environment.render(), np.uint8)
                environment.step(action + first)
            environment.close()
    except Exception as error:  # whatever a third party's renderer raises
        raise EnvironmentRefused(
            f"{spec.game} draws no pictures ({told(error)}): its metadata['render_modes'] must "
            "hold rgb_array, with which its render() gives [H, W, 3] uint8"
        ) from error
