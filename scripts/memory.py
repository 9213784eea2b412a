"""Whether a run can fit into this machine's memory, before anything of it is created."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil

from actors.environments.device import DeviceEnvironment
from agents.algorithm import Algorithm
from agents.networks import Heads, Network, make_network
from configs.load import ConfigError, flat
from configs.schema import Config
from scripts import on_device
from scripts.build import Probe, composition, unroll_bytes

_ACTOR_BYTES = 64 * 2**20  # of an actor's process; in truth it takes more, before its first step
_SIZES = ("learner.batch_size", "learner.unroll_length")
_EMULATOR_BYTES = 2**19  # of a game of Atari; about 1.5 MB were measured


class Need(NamedTuple):
    """A part of what a run keeps in memory."""

    name: str
    bytes: int
    keys: tuple[str, ...]  # that decide it


def check_memory(config: Config, probe: Probe, network: Network) -> None:
    """Refuses a run that surely takes more memory than this machine has.

    Only what is there at the same time at the least is counted, no copies. So a run that is not
    refused may still be too large.

    Args:
        config: of the run.
        probe: of its environment.
        network: of its agent.

    Raises:
        ConfigError: one line with the sum and the keys that decide it.
    """
    each = _activation_bytes(network, probe.observation_shape, probe.observation_dtype)
    observations = config.part_of_process().learner.batch_size * (config.learner.unroll_length + 1)
    activations = Need("activations", observations * each, _SIZES)
    values, actors = flat(config.model_dump()), config.actors
    require(values, [*_needs(config, probe), activations], memory_bytes())
    if actors.runtime == "ray" and actors.ray_address is None:
        each = unroll_bytes(probe, config.learner.unroll_length, actors.envs_per_actor)
        wanted = actors.count * actors.unrolls_in_flight * each
        keys = ("actors.max_bytes_in_flight", "actors.unrolls_in_flight")
        store = Need("Ray's object store", store_bytes(actors.max_bytes_in_flight, wanted), keys)
        available = psutil.virtual_memory().available  # all of which Ray sets aside at once
        require(values, [store], min(available, memory_bytes()))


def check_on_device(config: Config, environment: DeviceEnvironment, algorithm: Algorithm) -> None:
    """As `check_memory`, where the environment runs on the learner's device.

    Args:
        config: of the run.
        environment: of it.
        algorithm: of all its seeds.

    Raises:
        ConfigError: one line with the sum and the keys that decide it.
    """
    keys = ("seeds", "learner.unroll_length", "meta.hidden", "meta.bootstrap_steps")
    state = on_device.state_bytes(algorithm, config.seeds)
    needs = [Need("the state of all seeds", state, keys)]
    learner, observations = config.learner, config.learner.unroll_length
    shape, dtype = environment.observation_shape, environment.observation_dtype
    if not config.env.is_on_policy:
        observations = learner.batch_size * (learner.unroll_length + 1)
        batches = algorithm.online * observations * math.prod(shape) * np.dtype(dtype).itemsize
        steps = ("meta.inner_steps", "meta.bootstrap_steps")
        needs.append(Need("batches", batches, (*_SIZES, *steps)))
    elif config.learns:  # those of all inner steps are kept
        observations *= config.meta.inner_steps
    if not config.agent.algorithm.startswith("q_lambda"):
        heads = Heads(config.agent.auxiliary_heads, config.agent.auxiliary_layers)
        network = make_network(config.agent.network, environment.num_actions, shape, dtype, heads)
        each = _activation_bytes(network, shape, dtype)
        steps = ("meta.inner_steps",) if config.env.is_on_policy else ()
        needs.append(Need("activations", observations * each, (*_SIZES, *steps)))
    require(flat(config.model_dump()), needs, memory_bytes())


def _activation_bytes(network: Network, shape: tuple[int, ...], dtype: Any) -> int:
    """What the network keeps of an observation for its gradient, in this machine's memory."""
    if jax.local_devices()[0].platform != "cpu":
        return 0

    def kept(observations: int) -> int:
        batch = jax.ShapeDtypeStruct((observations, *shape), dtype)
        params = jax.eval_shape(network.init, jax.random.key(0))
        backwards = jax.eval_shape(
            lambda p, x: jax.vjp(lambda p: network.apply(p, x), p)[1], params, batch
        )
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(backwards))

    return kept(3) - kept(2)  # without the parameters


def store_bytes(bound: int, wanted: int) -> int:
    """Shared memory for the unrolls in flight, and as many that are being learned from.

    Args:
        bound: `actors.max_bytes_in_flight`.
        wanted: what is in flight without it.
    """
    return 2 * min(bound, wanted)


def _needs(config: Config, probe: Probe) -> list[Need]:
    part, parts = config.part_of_process(), composition(config)
    steps, envs = config.learner.unroll_length, config.actors.envs_per_actor
    # Beside the observation of each step: action, reward, discount, validity and the logits.
    unroll = unroll_bytes(probe, steps, envs) // envs + steps * (13 + 4 * probe.num_actions)
    batches = parts.online_batches + parts.bootstrap_batches
    many = ("meta.inner_steps", "meta.bootstrap_steps") if batches > 1 else ()
    needs = [Need("batches", batches * part.learner.batch_size * unroll, (*_SIZES, *many))]
    if parts.needs_replay:
        played = config.updates_of(config.total_frames) * part.new_unrolls * unroll
        replayed = min(config.replay.max_bytes, played)
        needs.append(Need("replay", replayed, ("replay.max_bytes",)))
    actors = config.actors
    if actors.runtime == "in_process" or actors.ray_address is None:
        emulator = _EMULATOR_BYTES if config.env.suite == "atari" else 0
        each = envs * (emulator + unroll // steps)
        if actors.runtime == "ray":
            each += _ACTOR_BYTES
        keys = ("actors.count", "actors.envs_per_actor")
        needs.append(Need("actors", actors.count * each, keys))
    return needs


def require(values: Mapping[str, Any], needs: list[Need], memory: int) -> None:
    """Refuses what does not fit into so many bytes.

    Args:
        values: of the configuration, by dotted key.
        needs: parts of the sum.
        memory: bytes that there are.

    Raises:
        ConfigError: one line with the sum, and the keys of the largest part.
    """
    total = sum(need.bytes for need in needs)
    if total <= memory:
        return
    needs = sorted(needs, key=lambda need: -need.bytes)
    keys = ", ".join(f"{key}={values[key]}" for key in needs[0].keys)
    told = " + ".join(f"{need.name} {_gib(need.bytes)}" for need in needs if need.bytes > 2**26)
    raise ConfigError(
        f"{keys}: this run needs at least {_gib(total)} of memory ({told}), and this machine has "
        f"{_gib(memory)}; make them smaller"
    )


def memory_bytes() -> int:
    """Memory of this machine, or what its control group may take of it, and swap space."""
    limits = [psutil.virtual_memory().total]
    for file in _limit_files():
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(limits) + psutil.swap_memory().total


def _limit_files() -> list[Path]:
    """Of this process's control group (version 2) and those around it, and of version 1."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    group = root / own.lstrip("/")
    groups = [group, *group.parents]
    files = [folder / "memory.max" for folder in groups if folder.is_relative_to(root)]
    return [*files, root / "memory" / "memory.limit_in_bytes"]


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
