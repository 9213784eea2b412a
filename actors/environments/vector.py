"""The vector environment that every suite provides, and its auto-reset contract."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:  # what is checked before anything starts knows specifications, and no arrays
    import numpy as np


_LONGEST = 160  # characters of what was raised


class EnvironmentRefused(Exception):
    """An environment cannot be made as configured; the message says what to change."""


class EnvironmentFailed(Exception):
    """An environment raised while it was played; the message is what it raised, with its type."""


def told(error: BaseException) -> str:
    """What was raised, in one line, and where in the user's own code."""
    lines = str(error).strip().splitlines() or [""]
    text = lines[0] if len(lines[0]) <= _LONGEST else f"{lines[0][: _LONGEST - 3]}..."
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"


@functools.cache
def _is_users(file: str) -> bool:
    """Whether code is neither Python's, nor of an installed package, nor ours."""
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    own = [os.path.join(ours, name) for name in ("actors", "agents", "learner", "scripts")]
    others = (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *own)
    return not file.startswith(("<", *others))


@contextlib.contextmanager
def playing() -> Iterator[None]:
    """Around what an environment does, where nobody replaces it.

    Raises:
        EnvironmentFailed: it raised something.
    """
    try:
        yield
    except Exception as error:  # whatever a third party's environment raises
        raise EnvironmentFailed(told(error)) from error


class EnvironmentSpec(NamedTuple):
    """Which environment, by which protocol. Plain data: it travels to actors and run folders."""

    suite: str
    game: str
    frame_skip: int
    frame_stack: int
    sticky_actions: float
    full_action_space: bool
    noop_max: int
    max_episode_frames: int
    life_loss_discount: float
    swap_period: int = 100_000
    respawn: str = "object"
    collection_discount: float = 1.0
    ramping: bool = True
    change_every: int | None = None
    change_seed: int = 0
    stagger_frames: int = 0


class Timestep(NamedTuple):
    """What one step of B environments gave.

    Auto-reset is "next step": the step after an ending ignores its action, starts the new episode
    and is not valid; nothing about it may be learned from, except that its observation opens an
    episode. So the observation an episode ended in is always seen, and a time limit can bootstrap
    from it.
    """

    observation: np.ndarray  # [B, ...], after the step
    reward: np.ndarray  # [B] float32, unclipped
    discount: np.ndarray  # [B] float32: 0 at an ending, `life_loss_discount` at a life's, else 1
    ended: np.ndarray  # [B] bool, the episode is over, by an ending or by a time limit
    valid: np.ndarray  # [B] bool, False on the auto-reset step
    frames: np.ndarray  # [B] int, emulator frames the agent has played in this episode


class VectorEnvironment(Protocol):
    """B environments that are stepped together and reset themselves."""

    num_envs: int
    num_actions: int
    observation_shape: tuple[int, ...]  # of one observation as the network sees it
    observation_dtype: Any
    frame_stack: int  # S where observations are [B, S, H, W] stacks of single frames, else 0

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Starts all episodes, each environment's random stream from its own seed."""
        ...

    def step(self, action: np.ndarray) -> Timestep:
        """Plays one action [B] int32 in each environment."""
        ...

    def close(self) -> None:
        """Frees what the environments hold."""
        ...


@runtime_checkable
class Restartable(Protocol):
    """What can begin some of its episodes anew while the others go on."""

    def restart(self, which: np.ndarray) -> np.ndarray:
        """Begins episodes in some environments, [B] bool; observations [B, ...] of all."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """What can be saved whole and goes on as if nothing had happened; some environments can."""

    def save(self) -> dict[str, np.ndarray]:
        """All that decides what comes next, as arrays by name."""
        ...

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Goes on from what `save` gave."""
        ...
