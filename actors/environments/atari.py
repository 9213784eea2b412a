"""Atari 2600 games through ale-py's vector environment, every protocol switch explicit."""

from collections.abc import Iterator, Sequence

import ale_py
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from actors.environments.vector import EnvironmentRefused, EnvironmentSpec, Timestep

_SIZE = 84


class Atari:
    """B games of one kind; see `VectorEnvironment`. Observations are [B, S, 84, 84] uint8.

    Rewards are the game's own, and an episode is a whole game (all lives): clipping and the
    discount at a lost life are the learner's business. A time limit truncates: its last discount
    is 1. FIRE is never pressed for the agent.
    """

    def __init__(self, spec: EnvironmentSpec, num_envs: int, threads: int) -> None:
        if spec.game not in roms.get_all_rom_ids():
            raise EnvironmentRefused(f"ale-py has no game {spec.game!r}")
        self._environment = AtariVectorEnv(
            spec.game,
            num_envs,
            batch_size=0,
            num_threads=min(threads, num_envs),
            thread_affinity_offset=-1,
            max_num_frames_per_episode=spec.max_episode_frames,
            repeat_action_probability=spec.sticky_actions,
            full_action_space=spec.full_action_space,
            continuous=False,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            img_height=_SIZE,
            img_width=_SIZE,
            grayscale=True,
            stack_num=spec.frame_stack,
            frameskip=spec.frame_skip,
            maxpool=spec.frame_skip > 1,
            # ale-py draws from 0 to noop_max - 1; "up to 30 no-ops" means 30 can happen.
            noop_max=spec.noop_max + 1 if spec.noop_max else 0,
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self.num_envs = num_envs
        self.num_actions = int(self._environment.single_action_space.n)  # type: ignore[attr-defined]
        self.observation_shape = (_SIZE, _SIZE, spec.frame_stack)
        self.observation_dtype = np.uint8
        self.frame_stack = spec.frame_stack
        self._life_loss_discount = np.float32(spec.life_loss_discount)
        self._lives = np.zeros(num_envs, np.int32)
        self.first_frame = np.zeros(num_envs, np.int32)  # no-ops that began each episode
        self._ended = np.zeros(num_envs, bool)

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Reseeds each emulator and its no-op draw; seeds in [0, 2**31)."""
        observation, counters = self._environment.reset(seed=seeds.astype(np.int32))
        self._lives = counters["lives"]
        self._ended = np.zeros(self.num_envs, bool)
        self.first_frame = counters["episode_frame_number"]
        return observation

    def restart(self, which: np.ndarray) -> np.ndarray:
        """Begins some games anew; see `Restartable`."""
        observation, counters = self._environment.reset(options={"reset_mask": which})
        self._lives = counters["lives"]
        self._ended = self._ended & ~which
        self.first_frame = np.where(which, counters["episode_frame_number"], self.first_frame)
        return observation

    def step(self, action: np.ndarray) -> Timestep:
        """Plays one action in each game, repeated over the skipped frames."""
        observation, reward, terminated, truncated, counters = self._environment.step(action)
        valid = ~self._ended
        lost_life = valid & (counters["lives"] < self._lives)
        discount = np.where(lost_life, self._life_loss_discount, np.float32(1.0))
        discount = np.where(terminated, np.float32(0.0), discount)
        self._lives = counters["lives"]
        self._ended = terminated | truncated
        frame = counters["episode_frame_number"]
        self.first_frame = np.where(valid, self.first_frame, frame)
        return Timestep(
            observation=observation,
            reward=reward.astype(np.float32),
            discount=discount,
            ended=self._ended,
            valid=valid,
            frames=frame - self.first_frame,
        )

    def close(self) -> None:
        """Ends ale-py's threads."""
        self._environment.close()


def replay(
    spec: EnvironmentSpec, seed: int, noops: int, actions: Sequence[int]
) -> Iterator[tuple[np.ndarray, float]]:
    """Plays recorded actions again in a single emulator, frame by frame.

    Args:
        spec: the protocol they were played by.
        seed: of the environment, as given to `Atari.reset`.
        noops: that began the episode, `Atari.first_frame`.
        actions: of one episode, each repeated `spec.frame_skip` times.

    Yields:
        The screen [210, 160, 3] uint8 after each frame, and the frame's own reward.
    """
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.setInt("random_seed", seed)
    emulator.setFloat("repeat_action_probability", spec.sticky_actions)
    emulator.loadROM(str(roms.get_rom_path(spec.game)))
    emulator.reset_game()
    legal = (
        emulator.getLegalActionSet() if spec.full_action_space else emulator.getMinimalActionSet()
    )
    for _ in range(noops):
        emulator.act(ale_py.Action.NOOP)
    for action in actions:
        for _ in range(spec.frame_skip):
            if emulator.game_over():
                return
            reward = emulator.act(legal[action])
            yield emulator.getScreenRGB(), float(reward)
