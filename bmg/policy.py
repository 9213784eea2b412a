"""The policy and value that a run has learned, as functions of observations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax.core import Tracer

from agents.networks import Network, Params, make_network
from agents.policies import greedy, sample
from configs.load import ConfigError
from configs.load import load as load_config
from learner.run_folder import configuration_of
from scripts import plugins
from scripts.evaluate import on_this_machine, require_policy
from scripts.folders import require_run
from scripts.settings import make_settings
from scripts.trained import read_checkpoint


class Policy(NamedTuple):
    """What acts, with the parameters of a checkpoint.

    Observations are single ones or have any leading axes; those of Atari are the four newest grey
    frames, uint8 [84, 84, 4], as `actors/environments/atari.py` makes them.
    """

    params: Params
    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype
    num_actions: int
    frames: int  # for which it was trained
    updates: int
    network: Network

    def __repr__(self) -> str:
        """What it takes, in a line: its parameters would fill pages of a notebook."""
        takes = f"{self.observation_dtype.name}{list(self.observation_shape)}"
        return f"Policy(of {takes}, {self.num_actions} actions, {self.frames:,} frames)"

    def logits(self, observation: Any) -> jax.Array:
        """Unnormalised log-probabilities of the actions: [..., *observation_shape] to [..., A].

        Raises:
            ValueError: the observation has another shape, or fractions where there are none.
        """
        return _apply(self.network.apply, self.params, self._checked(observation))[0]

    def value(self, observation: Any) -> jax.Array:
        """The return that is expected from here: [..., *observation_shape] to [...].

        Raises:
            ValueError: the observation has another shape, or fractions where there are none.
        """
        return _apply(self.network.apply, self.params, self._checked(observation))[1]

    def act(self, observation: Any, key: jax.Array | int | None = None) -> jax.Array:
        """Actions: [..., *observation_shape] to [...] int32.

        Args:
            observation: one, or a batch.
            key: to sample with, as in training, or a seed of one; None takes the most likely
                action.

        Raises:
            ValueError: the observation has another shape, or fractions where there are none.
        """
        logits = self.logits(observation)
        if key is None:
            return greedy(jax.random.key(0), logits)
        return sample(jax.random.key(key) if isinstance(key, int | np.integer) else key, logits)

    def export(self, folder: str | os.PathLike[str]) -> None:
        """Writes the policy for programs without `bmg`: policy.stablehlo and policy.json.

        The program takes a batch of any size [B, *observation_shape] and gives logits [B, A] and
        values [B]; its parameters are part of it. `jax.export.deserialize(bytes).call(batch)` runs
        it, for CPUs, NVIDIA GPUs and TPUs.

        Raises:
            OSError: it cannot be written.
        """
        batch = jax_export.symbolic_shape("b")
        shape = jax.ShapeDtypeStruct((*batch, *self.observation_shape), self.observation_dtype)
        program = jax_export.export(
            jax.jit(lambda x: _outputs(self.network.apply, self.params, x)),
            platforms=("cpu", "cuda", "tpu"),
        )(shape)
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / "policy.stablehlo").write_bytes(program.serialize())
        about = {
            "observation_shape": list(self.observation_shape),
            "observation_dtype": self.observation_dtype.name,
            "num_actions": self.num_actions,
            "outputs": ["logits [B, A]", "value [B]"],
            "frames": self.frames,
            "updates": self.updates,
        }
        (path / "policy.json").write_text(json.dumps(about, indent=2) + "\n")

    def _checked(self, observation: Any) -> jax.Array:
        shape, rank = np.shape(observation), len(self.observation_shape)
        if len(shape) < rank or shape[len(shape) - rank :] != self.observation_shape:
            wanted = ", ".join(map(str, self.observation_shape))
            raise ValueError(f"observations are [..., {wanted}], and this one is {list(shape)}")
        if self.observation_dtype.kind in "iub" and not isinstance(observation, Tracer):
            given = np.asarray(observation)
            if given.dtype.kind == "f" and (given != np.floor(given)).any():  # all would be cut
                raise ValueError(
                    f"observations are {self.observation_dtype.name}, and this one has fractions"
                )
        return jnp.asarray(observation, self.observation_dtype)


def _outputs(apply: Any, params: Params, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
    outputs = apply(params, observation)
    return outputs.logits, outputs.value


_apply = jax.jit(_outputs, static_argnums=0)


def load(path: Path, checkpoint: int | None, seed: int | None) -> Policy:
    """As `bmg.load_policy`."""
    require_run(path)
    source = str(configuration_of(path))
    config = on_this_machine(load_config(source))
    plugins.say_game(config.env, source)
    require_policy(config.agent.algorithm)
    first = config.seed
    if seed is not None and not first <= seed < first + config.seeds:
        raise ConfigError(
            f"{path}: there is no seed {seed}; it has {first} to {first + config.seeds - 1}"
        )
    trained = read_checkpoint(path, config, checkpoint)
    probe = trained.probe
    shape, dtype = tuple(probe.observation_shape), np.dtype(probe.observation_dtype)
    heads = make_settings(config).heads
    network = make_network(config.agent.network, probe.num_actions, shape, dtype, heads)
    return Policy(
        trained.agents[0 if seed is None else seed - first],
        shape,
        dtype,
        probe.num_actions,
        trained.progress.frames,
        trained.progress.updates,
        network,
    )
