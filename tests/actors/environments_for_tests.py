"""Gymnasium environments that tests ask for by id: `tests.actors.environments_for_tests:NAME`."""

import os
import signal
import time

import gymnasium
import numpy as np


class Counting(gymnasium.Env):
    """Observation: (seed, episode, step). Reward: 100 episode + 10 step + action.

    Even episodes end after 3 steps, odd ones are cut by a time limit after 2.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(4, start=5)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.episode = -1
        self.seed = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.seed = seed % 1000
        self.episode += 1
        self.step_in_episode = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        reward = 100.0 * self.episode + 10.0 * self.step_in_episode + (action - 5)
        self.step_in_episode += 1
        odd = self.episode % 2 == 1
        terminated = not odd and self.step_in_episode == 3
        truncated = odd and self.step_in_episode == 2
        return self._observe(), reward, terminated, truncated, {}

    def render(self):
        return np.full((8, 8, 3), self.step_in_episode, np.uint8)

    def _observe(self):
        return np.asarray([self.seed, self.episode, self.step_in_episode], np.float32)


class Raising(Counting):
    """Raises in its 30th step, whichever episode that is."""

    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 30:
            raise RuntimeError("the joystick is broken")
        return super().step(action)


class Crashing(Counting):
    """Kills its process in its second step, as a fault below Python would."""

    def step(self, action):
        if self.step_in_episode == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Diverging(Counting):
    """Gives a reward that is not a number in its 200th step."""

    steps = 0

    def step(self, action):
        self.steps += 1
        observation, reward, *rest = super().step(action)
        return observation, float("nan") if self.steps >= 200 else reward, *rest


class Sleeping(Counting):
    """Sleeps for an hour in its 30th step."""

    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 30:
            time.sleep(3600)
        return super().step(action)


class Endless(Counting):
    """Has one episode, so that all steps are learned from."""

    def step(self, action):
        self.step_in_episode += 1
        return self._observe(), float(action == 6), False, False, {}


class Wearing(Endless):
    """Raises in each 1,000th step."""

    def step(self, action):
        result = super().step(action)
        if self.step_in_episode % 1000 == 0:
            raise RuntimeError("the joystick is worn")
        return result


class Dozing(Endless):
    """Sleeps for an hour in its 100th step."""

    def step(self, action):
        if self.step_in_episode == 99:
            time.sleep(3600)
        return super().step(action)


class Continuous(Counting):
    """Cannot be played by an agent with discrete actions."""

    action_space = gymnasium.spaces.Box(-1, 1, (2,))


class Image(Counting):
    """Colour pictures of the smallest size that the networks take."""

    observation_space = gymnasium.spaces.Box(0, 255, (20, 24, 3), np.uint8)

    def _observe(self):
        return np.full(self.observation_space.shape, 10 * self.step_in_episode, np.uint8)


class Thumbnail(Image):
    """Too small."""

    observation_space = gymnasium.spaces.Box(0, 255, (19, 24, 3), np.uint8)


class ChannelsFirst(Image):
    """Colour pictures as PyTorch's networks take them."""

    observation_space = gymnasium.spaces.Box(0, 255, (3, 24, 24), np.uint8)


class Empty(Image):
    """Observes nothing."""

    observation_space = gymnasium.spaces.Box(0, 255, (0,), np.uint8)


class Stuck(Counting):
    """Can only be reset twice, as it is before a run folder is made."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        Stuck.resets += 1
        if Stuck.resets > 2:
            raise RuntimeError("the cartridge is dirty")
        return super().reset(seed=seed)


class Leaving(Counting):
    """Ends its process in its second step as a program does whose window was closed."""

    def step(self, action):
        if self.step_in_episode == 1:
            raise SystemExit(0)
        return super().step(action)

    def close(self):
        raise RuntimeError("it is closed")


class Broken(Counting):
    """Cannot be reset at all."""

    def reset(self, *, seed=None, options=None):
        raise RuntimeError("there is no cartridge")


for environment in (
    Broken,
    Stuck,
    Leaving,
    Image,
    Thumbnail,
    ChannelsFirst,
    Empty,
    Counting,
    Raising,
    Diverging,
    Sleeping,
    Crashing,
    Continuous,
    Endless,
    Wearing,
    Dozing,
):
    gymnasium.register(f"{environment.__name__}-v0", environment)
