"""Stacks rebuilt on the learner, and the learner's view of a batch."""

import jax.numpy as jnp
import numpy as np
import pytest

from agents.trajectory import Trajectory, learner_view, stack_frames


def _trajectory(steps=4, batch=2, frames=None):
    shape = (steps, batch)
    observation = jnp.zeros((steps + 1, batch, 5)) if frames is None else frames
    return Trajectory(
        observation,
        jnp.zeros(shape, jnp.int32),
        jnp.asarray(np.linspace(-3, 3, steps * batch).reshape(shape), jnp.float32),
        jnp.ones(shape),
        jnp.zeros((*shape, 3)),
        jnp.ones(shape, bool),
    )


def test_stacks_stop_at_episode_boundaries():
    """A literal reconstruction: one environment at a time, the stack zeroed at each reset."""
    steps, batch, stack = 9, 3, 4
    rng = np.random.default_rng(0)
    frames = rng.integers(1, 255, (steps + stack, batch, 2, 2)).astype(np.uint8)
    frames[:2, 1] = 0  # environment 1 was reset two observations before the unroll began
    valid = rng.random((steps, batch)) > 0.3
    valid[0, 2] = False  # environment 2 is reset by the very first step
    expected = np.zeros((steps + 1, batch, 2, 2, stack), np.uint8)
    for b in range(batch):
        window = [frames[i, b] for i in range(stack)]
        expected[0, b] = np.stack(window, -1)
        for t in range(steps):
            if not valid[t, b]:
                window = [np.zeros((2, 2), np.uint8)] * stack
            window = [*window[1:], frames[stack + t, b]]
            expected[t + 1, b] = np.stack(window, -1)
    np.testing.assert_array_equal(stack_frames(jnp.asarray(frames), jnp.asarray(valid)), expected)


def test_a_stack_of_one_is_the_frame():
    frames = jnp.arange(3 * 2 * 4, dtype=jnp.uint8).reshape(3, 2, 2, 2)
    np.testing.assert_array_equal(stack_frames(frames, jnp.ones((2, 2), bool))[..., 0], frames)


def test_rewards_are_clipped_on_the_learner_only_if_asked():
    trajectory = _trajectory()
    assert float(jnp.abs(learner_view(trajectory, False, 1.0).reward).max()) == 1.0
    np.testing.assert_array_equal(learner_view(trajectory, False, 0.0).reward, trajectory.reward)


def test_shapes_that_disagree_are_named():
    trajectory = _trajectory()
    with pytest.raises(ValueError, match="discount"):
        learner_view(trajectory._replace(discount=jnp.ones((4, 3))), False, 1.0)
    with pytest.raises(ValueError, match="observation"):
        learner_view(trajectory._replace(observation=jnp.zeros((4, 2, 5))), False, 1.0)
