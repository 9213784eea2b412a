"""Whole episodes with fixed parameters: scores, and one of them as a film."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from actors.environments.suites import make_environment
from actors.environments.vector import EnvironmentRefused, EnvironmentSpec, playing
from actors.seeding import environment_seeds, policy_key
from actors.server import make_act, make_value
from agents.networks import Params
from agents.trajectory import Episode


class Played(NamedTuple):
    """Episodes of an evaluation."""

    episodes: list[Episode]
    cut: int  # of them by a time limit, the evaluation's or the environment's own


class Moment(NamedTuple):
    """How far an evaluation is after a step; N environments play side by side."""

    finished: int  # episodes
    frames: int  # played by each environment
    frames_left: float  # at most, of the environment that has most to play
    sure: bool  # some episode has ended, and `frames_left` is by the mean length of those


class Recording(NamedTuple):
    """An episode as its actions; `film` plays it again."""

    seed: int  # of the environment
    actions: list[int]
    observations: list[np.ndarray]  # of Catch, [50], without the first; else none
    noops: int  # that began the episode (Atari)
    episode: Episode
    scores: list[float]  # after each action
    values: list[float]  # that the agent expected before it


def play_episodes(
    spec: EnvironmentSpec,
    network: str,
    policy: str,
    params: Params,
    *,
    episodes: int,
    seed: int,
    num_envs: int,
    threads: int,
    on_step: Callable[[Moment], None],
) -> Played:
    """Plays whole episodes, as many in each environment as in the others, give or take one.

    Taking the first to finish instead would prefer short games. An episode of
    `spec.max_episode_frames` is cut there in every suite; its environment then waits until all
    others have played theirs or are cut as well, since only all of them can be started anew.

    Args:
        spec: the environment and its protocol.
        network: name of the network.
        policy: name of the policy.
        params: fixed throughout.
        episodes: how many.
        seed: of environments and actions.
        num_envs: at most so many side by side.
        threads: of the environments.
        on_step: told after each step of all environments.

    Raises:
        EnvironmentFailed: one of them raised.
    """
    num_envs = min(num_envs, episodes)
    # Lost lives are the training's: here a last discount of 0 tells an ending from a time limit.
    environment = make_environment(spec._replace(life_loss_discount=1.0), num_envs, threads)
    act = make_act(network, policy, environment)
    key = policy_key(seed, 0)
    quota = np.asarray([episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)])
    finished: list[Episode] = []
    cut, t = 0, 0
    with contextlib.closing(environment):
        while quota.any():
            # 1 is the film's.
            serial = 0 if t == 0 else 1 + t
            with playing():
                observation = environment.reset(environment_seeds(seed, serial, num_envs))
            score, busy = np.zeros(num_envs), quota > 0
            while busy.any():
                action, _ = act(params, key, t, observation)
                with playing():
                    step = environment.step(np.asarray(action))
                observation, t = step.observation, t + 1
                score += step.reward
                too_long = ~step.ended & (step.frames >= spec.max_episode_frames)
                for i in np.flatnonzero(busy & (step.ended | too_long)):
                    finished.append(Episode(float(score[i]), int(step.frames[i])))
                    cut += bool(too_long[i] or step.discount[i])
                    quota[i] -= 1
                score[step.ended] = 0.0
                busy &= (quota > 0) & ~too_long
                on_step(_moment(spec, finished, t, quota, np.where(busy, step.frames, 0)))
    return Played(finished, cut)


def _moment(
    spec: EnvironmentSpec, finished: list[Episode], steps: int, quota: np.ndarray, now: np.ndarray
) -> Moment:
    """How far it is.

    Args:
        spec: of the environments.
        finished: episodes.
        steps: that each environment has played.
        quota: episodes that each has yet to end [N].
        now: frames of the episodes that go on [N].
    """
    lengths = [episode.frames for episode in finished]
    length = max(1.0, sum(lengths) / len(lengths)) if lengths else spec.max_episode_frames
    left = float(np.maximum(quota * length - now, quota > 0).max())
    return Moment(len(finished), steps * spec.frame_skip, left, bool(lengths))


def record_episode(
    spec: EnvironmentSpec, network: str, policy: str, params: Params, *, seed: int
) -> Recording:
    """Plays one episode, at most to `spec.max_episode_frames`, and keeps its actions.

    Raises:
        EnvironmentFailed: it raised.
    """
    environment = make_environment(spec, 1, 1)
    act = make_act(network, policy, environment)
    value_of = make_value(network, environment)
    key = policy_key(seed, 1)
    seeds = environment_seeds(seed, 1, 1)
    with playing():
        observation = environment.reset(seeds)
    noops = int(getattr(environment, "first_frame", np.zeros(1))[0])
    actions, observations, scores, values, score, t = [], [], [], [], 0.0, 0
    while True:
        values.append(float(value_of(params, observation)[0]))
        action, _ = act(params, key, t, observation)
        with playing():
            step = environment.step(np.asarray(action))
        observation, t = step.observation, t + 1
        actions.append(int(action[0]))
        if spec.suite == "catch":  # whose board is its film; stacks of a long game fill memory
            observations.append(observation[0].copy())
        score += float(step.reward[0])
        scores.append(score)
        if step.ended[0] or step.frames[0] >= spec.max_episode_frames:
            environment.close()
            episode = Episode(score, int(step.frames[0]))
            start = int(seeds[0]), actions, observations, noops
            return Recording(*start, episode, scores, values)


def film(spec: EnvironmentSpec, recording: Recording) -> Iterator[np.ndarray]:
    """The pictures of an episode, [H, W, 3] uint8.

    Atari is replayed in the emulator itself, in colour and frame by frame; Gymnasium environments
    by their own renderer; Catch is its board.

    Raises:
        EnvironmentRefused: the environment draws no pictures.
    """
    if spec.suite == "atari":
        from actors.environments.atari import replay

        for picture, _ in replay(spec, recording.seed, recording.noops, recording.actions):
            yield picture
    elif spec.suite == "gymnasium":
        from actors.environments.gymnasium_suite import render

        yield from render(spec, recording.seed, recording.actions)
    elif spec.suite == "catch":
        from actors.environments.catch import COLUMNS, ROWS

        for board in recording.observations:
            tall = np.repeat(np.repeat(board.reshape(ROWS, COLUMNS), 16, axis=0), 16, axis=1)
            yield np.repeat(tall[..., None], 3, axis=-1)
    else:
        raise EnvironmentRefused(f"env.suite={spec.suite} draws no pictures")
