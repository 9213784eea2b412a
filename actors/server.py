"""A server of unrolls: a vector environment, a policy and a random stream. No Ray in here."""

import importlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from actors.environments.suites import make_environment
from actors.environments.vector import EnvironmentSpec, Resumable, VectorEnvironment
from actors.seeding import environment_seeds, policy_key
from actors.staggering import stagger
from agents.networks import Network, Params, make_network
from agents.policies import POLICIES
from agents.trajectory import Episode, Trajectory, Unroll

Act = Callable[[Params, jax.Array, int, np.ndarray], tuple[jax.Array, jax.Array]]


class ServerSpec(NamedTuple):
    """All that a server is made from, as plain data."""

    environment: EnvironmentSpec
    network: str
    num_envs: int
    unroll_length: int
    threads: int
    seed: int  # of the run
    plugins: tuple[str, ...] = ()  # modules that add what the names above stand for


class UnrollServer:
    """Plays on from where it stopped, one unroll for each call, with the parameters it is given.

    The same class runs inside a Ray actor and in the learner's own process. It keeps no
    parameters of its own, so that a replacement needs no catching up.
    """

    def __init__(self, spec: ServerSpec, serial: int) -> None:
        """Makes and resets the environments.

        Args:
            spec: what to make.
            serial: of this server within the run; decides its random streams.

        Raises:
            EnvironmentRefused: the environment cannot be made as configured.
        """
        for plugin in spec.plugins:
            importlib.import_module(plugin)
        self._spec = spec
        self.name = f"actor {serial} ({spec.environment.game})"
        self._environment = make_environment(spec.environment, spec.num_envs, spec.threads)
        self._act = make_act(spec.network, "sample", self._environment)
        self._key = policy_key(spec.seed, serial)
        self._steps = 0  # since the server was made; each draws its actions with a key of its own
        self._observation = self._environment.reset(
            environment_seeds(spec.seed, serial, spec.num_envs)
        )
        self._score = np.zeros(spec.num_envs, np.float64)  # NaN: of no whole game of the policy
        if steps := spec.environment.stagger_frames // spec.environment.frame_skip:
            self._observation, begun = stagger(
                self._environment, self._observation, steps, spec.seed, serial
            )
            self._score[begun] = np.nan
        self._device_params: tuple[int, Params] | None = None

    def unroll(self, params: Params, version: int) -> Unroll:
        """Plays `unroll_length` steps in each environment.

        Args:
            params: of the policy, as host or device arrays.
            version: learner updates that made them.
        """
        params = self._on_device(params, version)
        steps, envs = self._spec.unroll_length, self._spec.num_envs
        stack = self._environment.frame_stack
        frames = _FrameBuffer(self._observation, steps, stack)
        action = np.empty((steps, envs), np.int32)
        reward = np.empty((steps, envs), np.float32)
        discount = np.empty((steps, envs), np.float32)
        valid = np.empty((steps, envs), bool)
        logits = []
        episodes: list[Episode] = []
        in_environment = 0.0
        start = time.perf_counter()
        for t in range(steps):
            chosen, step_logits = self._act(params, self._key, self._steps, self._observation)
            self._steps += 1
            action[t] = chosen
            logits.append(step_logits)
            entered = time.perf_counter()
            step = self._environment.step(action[t])
            in_environment += time.perf_counter() - entered
            self._observation = step.observation
            reward[t], discount[t], valid[t] = step.reward, step.discount, step.valid
            frames.add(t + 1, step.observation)
            episodes.extend(self._finished(step.reward, step.ended, step.frames))
        total = time.perf_counter() - start
        trajectory = Trajectory(frames.array, action, reward, discount, np.stack(logits), valid)  # type: ignore[arg-type]
        played = int(valid.sum())
        return Unroll(
            trajectory=trajectory,
            version=version,
            actor=self.name,
            frames=played * self._spec.environment.frame_skip,
            steps=played,
            episodes=tuple(episodes),
            seconds={"environment": in_environment, "policy": total - in_environment},
        )

    def save(self) -> dict[str, np.ndarray] | None:
        """All that decides what is played next; None where the environments cannot be saved."""
        if not isinstance(self._environment, Resumable):
            return None
        environment = {f"environment/{k}": v for k, v in self._environment.save().items()}
        return {
            **environment,
            "key": np.asarray(jax.random.key_data(self._key)),
            "steps": np.asarray(self._steps),
            "observation": self._observation,
            "score": self._score.copy(),
        }

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Goes on from what `save` gave, with its random streams."""
        assert isinstance(self._environment, Resumable)
        self._environment.restore(under("environment/", saved))
        self._key = jax.random.wrap_key_data(jax.numpy.asarray(saved["key"]))
        self._steps = int(saved["steps"])
        self._observation, self._score = saved["observation"], saved["score"].copy()

    def close(self) -> None:
        """Closes the environments."""
        self._environment.close()

    def _on_device(self, params: Params, version: int) -> Params:
        """Moves parameters once for each version, not once for each step."""
        if self._device_params is None or self._device_params[0] != version:
            self._device_params = version, jax.device_put(params)
        return self._device_params[1]

    def _finished(self, reward: np.ndarray, ended: np.ndarray, frames: np.ndarray) -> list[Episode]:
        self._score += reward
        over = np.flatnonzero(ended)
        whole = [i for i in over if not np.isnan(self._score[i])]
        episodes = [Episode(float(self._score[i]), int(frames[i])) for i in whole]
        self._score[over] = 0.0
        return episodes


def under(prefix: str, saved: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in saved.items() if k.startswith(prefix)}


class _FrameBuffer:
    """Collects an unroll's observations: each frame once where the environment stacks them."""

    def __init__(self, first: np.ndarray, steps: int, stack: int) -> None:
        self._stack = stack
        if stack:  # [B, S, H, W] to S single frames [B, H, W]
            shape = (steps + stack, first.shape[0], *first.shape[2:])
            self.array = np.empty(shape, first.dtype)
            self.array[:stack] = first.swapaxes(0, 1)
        else:
            self.array = np.empty((steps + 1, *first.shape), first.dtype)
            self.array[0] = first

    def add(self, row: int, observation: np.ndarray) -> None:
        if self._stack:
            self.array[self._stack - 1 + row] = observation[:, -1]
        else:
            self.array[row] = observation


def make_value(
    network_name: str, environment: VectorEnvironment
) -> Callable[[Params, np.ndarray], jax.Array]:
    """The jitted value estimates [B] of an environment's observations, as `make_act` the policy."""
    network = _network(network_name, environment)

    @jax.jit
    def value(params, observation):
        return network.apply(params, _as_seen(environment, observation)).value

    return value


def _network(name: str, environment: VectorEnvironment) -> Network:
    return make_network(
        name,
        environment.num_actions,
        environment.observation_shape,
        environment.observation_dtype,
    )


def _as_seen(environment: VectorEnvironment, observation: Any) -> Any:
    """The environment's [B, S, H, W] as the network's [B, H, W, S]."""
    return observation.transpose(0, 2, 3, 1) if environment.frame_stack else observation


def make_act(network_name: str, policy: str, environment: VectorEnvironment) -> Act:
    """The jitted policy of an environment's observations.

    Args:
        network_name: for `make_network`.
        policy: a name in `agents.policies.POLICIES`.
        environment: gives the shapes.

    Returns:
        A function of parameters, a key, the number of the step, which is folded into the key, and
        observations as the environment gives them; it returns actions [B] and logits [B, A].
    """
    network = _network(network_name, environment)
    choose = POLICIES[policy]

    @jax.jit
    def act(params, key, step, observation):
        logits = network.apply(params, _as_seen(environment, observation)).logits
        return choose(jax.random.fold_in(key, step), logits), logits

    return act
