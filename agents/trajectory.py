"""The one data type that crosses every boundary: a trajectory, time first."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Trajectory(NamedTuple):
    """One unroll of T steps in B environments; row t is the step from observation t to t + 1.

    Only `observation` has T + 1 rows; the last one is bootstrapped from, never acted on. Every
    other field has T rows, and row t means "because of action t" (docs/alignment.md).

    Pixels travel as single frames, `[T + S, B, H, W]` with S the number of stacked frames: the S
    frames of the first observation, then the newest frame of each following one. `stack_frames`
    makes observations of them on the learner's device.
    """

    observation: jax.Array  # [T+1, B, ...] or single frames [T+S, B, H, W] uint8
    action: jax.Array  # [T, B] int32
    reward: jax.Array  # [T, B] float32, the game's own reward, unclipped
    discount: jax.Array  # [T, B] float32, 0 where action t ended the episode; 1 at a time limit
    behaviour_logits: jax.Array  # [T, B, A] float32, of the policy that acted
    valid: jax.Array  # [T, B] bool, False on the environment's own auto-reset step


def assert_shapes(trajectory: Trajectory) -> None:
    """Checks ranks and axes at trace time.

    Raises:
        ValueError: a field disagrees with `action` about T or B.
    """
    steps, batch = trajectory.action.shape
    for field in ("reward", "discount", "valid", "behaviour_logits"):
        shape = getattr(trajectory, field).shape
        if shape[:2] != (steps, batch):
            raise ValueError(f"trajectory.{field} has shape {shape}, not [{steps}, {batch}, ...]")
    shape = trajectory.observation.shape
    if shape[0] <= steps or shape[1] != batch:
        raise ValueError(
            f"trajectory.observation has shape {shape}, not [at least {steps + 1}, {batch}, ...]"
        )


def stack_frames(frames: jax.Array, valid: jax.Array) -> jax.Array:
    """Rebuilds stacked observations from single frames, without looking into other episodes.

    An invalid step is an auto-reset, so observation t + 1 opens an episode where `valid[t]` is
    False; older slots of its stack are zero, as the environment's own are after a reset.

    Args:
        frames: [T+S, B, H, W]; the first S are the stack of observation 0, zeros included.
        valid: [T, B] bool.

    Returns:
        [T+1, B, H, W, S], the newest frame last.
    """
    steps = valid.shape[0]
    stack = frames.shape[0] - steps
    # continues[i] says that observation i belongs to the episode of observation i - 1. What came
    # before observation 0 needs no mask: the environment zeroed it already.
    continues = jnp.concatenate([jnp.ones((stack, *valid.shape[1:]), bool), valid])
    keep = jnp.ones((steps + 1, *valid.shape[1:]), bool)
    slots = []
    for age in range(stack):
        newest = stack - 1 - age
        rows = frames[newest : newest + steps + 1]
        slots.append(jnp.where(keep[..., None, None], rows, 0))
        keep = keep & continues[newest : newest + steps + 1]  # observations 0 - age to T - age
    return jnp.stack(slots[::-1], axis=-1)


def learner_view(trajectory: Trajectory, single_frames: bool, reward_clip: float) -> Trajectory:
    """What the losses see: stacked observations and clipped rewards.

    Args:
        trajectory: as an actor sent it.
        single_frames: whether `observation` holds single frames.
        reward_clip: rewards are clipped to [-reward_clip, reward_clip]; 0 leaves them alone.

    Raises:
        ValueError: the fields' shapes disagree.
    """
    assert_shapes(trajectory)
    if single_frames:
        stacked = stack_frames(trajectory.observation, trajectory.valid)
        trajectory = trajectory._replace(observation=stacked)
    if reward_clip:
        clipped = jnp.clip(trajectory.reward, -reward_clip, reward_clip)
        trajectory = trajectory._replace(reward=clipped)
    return trajectory


class Episode(NamedTuple):
    """A finished game, as a score table counts it."""

    score: float  # unclipped rewards over all lives
    frames: int  # emulator frames, skipped ones included; a step where nothing is skipped


class Unroll(NamedTuple):
    """What an actor returns: a trajectory of its environments, and what is never traced."""

    trajectory: Trajectory  # of NumPy arrays
    version: int  # learner updates that had made the policy which acted
    actor: str  # names the actor and its game in messages
    frames: int  # emulator frames played on valid steps
    steps: int  # valid environment steps
    episodes: tuple[Episode, ...]  # those that ended in this unroll
    seconds: dict[str, float]  # spent in each stage: "environment", "policy"


class SourceFailed(Exception):
    """A source of experience has given up; the message names the actor, the game and the reason."""
