"""From a `Config` to the objects that run it."""

import itertools
import logging
import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from actors.environments.suites import check_environment, make_environment
from actors.environments.vector import EnvironmentRefused, told
from actors.seeding import environment_seeds
from actors.server import ServerSpec
from agents.algorithm import Algorithm, State, make_algorithm
from agents.networks import Network, Params, check_observations, make_network
from agents.off_policy import off_policy_parts
from agents.trajectory import Trajectory, learner_view
from configs.load import ConfigError
from configs.schema import Config, EnvironmentConfig, LearnerConfig
from learner.experience import Composition, ExperienceSource, FromSource
from learner.replay import Replay
from learner.step import Learner, make_learner
from scripts import jax_environment, plugins
from scripts.check import environment_spec
from scripts.settings import make_settings

_log = logging.getLogger(__name__)
# Serials of the actors of one start of a run: room for every replacement it could ever need.
_SERIALS_PER_START = 100_000


class Probe(NamedTuple):
    """What only an environment itself can say."""

    num_actions: int
    observation_shape: tuple[int, ...]
    observation_dtype: type
    single_frames: bool


class Agent(NamedTuple):
    """The learner's side of a run."""

    probe: Probe
    network: Network
    algorithm: Algorithm
    learner: Learner
    initial_state: State


def probe_environment(env: EnvironmentConfig, seed: int) -> Probe:
    """Makes one environment and asks it.

    Args:
        env: what it is.
        seed: of its first reset.

    Raises:
        ConfigError: it cannot be made, or the agent cannot play it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the one line of a refusal should stand alone
            check_environment(environment_spec(env), seed)
            environment = make_environment(environment_spec(env), 1, 1)
            environment.reset(environment_seeds(seed, 0, 1))
    except EnvironmentRefused as error:
        raise ConfigError(f"env.game={env.game}: {error}") from error
    except Exception as error:  # whatever a third party's environment raises in its first reset
        raise ConfigError(f"env.game={env.game}: it cannot be reset: {told(error)}") from error
    probe = Probe(
        environment.num_actions,
        environment.observation_shape,
        environment.observation_dtype,
        bool(environment.frame_stack),
    )
    environment.close()
    return probe


def server_spec(config: Config, *, num_envs: int | None = None) -> ServerSpec:
    """What an unroll server is made from."""
    return ServerSpec(
        environment=environment_spec(config.env),
        network=config.agent.network,
        num_envs=num_envs or config.actors.envs_per_actor,
        unroll_length=config.learner.unroll_length,
        threads=config.actors.threads_per_actor,
        seed=config.seed,
        plugins=tuple(config.plugins),
    )


def composition(config: Config) -> Composition:
    """What the experience of one learner step is made of, in this process."""
    config = config.part_of_process()
    meta, steps = config.meta, 1
    further = 0
    if config.learns:
        steps = meta.inner_steps
        if meta.keep_bootstrapped:
            steps += meta.bootstrap_steps - 1
        else:
            further = meta.bootstrap_steps - 1
    return Composition(steps, config.replay.unrolls, further)


def check_network(network: str, probe: Probe, game: str) -> None:
    """Refuses observations that the network cannot take.

    Args:
        network: its name.
        probe: of the environment.
        game: its name, for the message.

    Raises:
        ConfigError: names a network or a shape that can be.
    """
    try:
        check_observations(network, probe.observation_shape)
    except ValueError as error:
        raise ConfigError(f"agent.network={network}: {error} (env.game={game})") from error


def say_if_network_is_another(name: str, probe: Probe, game: str) -> None:
    """Warns of a network for images, other than the default one, where there are none."""
    if len(probe.observation_shape) == 1 and name in ("shallow_atari", "deep"):
        _log.warning(
            "bmg: agent.network=%s acts nowhere: observations of %s are vectors, for which it is "
            "agent.network=dense",
            *(name, game),
        )


def build_agent(config: Config, probe: Probe) -> Agent:
    """Network, learner and first state.

    Raises:
        ConfigError: the batch does not divide over the devices, or the network cannot take the
            observations.
    """
    settings = make_settings(config)
    check_network(config.agent.network, probe, config.env.game)
    observations = probe.observation_shape, probe.observation_dtype
    clip, single_frames = config.env.reward_clip, probe.single_frames
    with plugins.blamed(config.plugins, "the learner cannot be built"):
        network = make_network(
            config.agent.network, probe.num_actions, *observations, settings.heads
        )
        parts = off_policy_parts(
            settings, network, lambda batch: learner_view(batch, single_frames, clip)
        )
        algorithm = make_algorithm(parts, settings)
        if config.plugins:
            _require_step(config, probe, algorithm)
    learner = make_learner(algorithm, _devices(config.learner))
    state = algorithm.init(jax.random.key(config.seed))
    return Agent(probe, network, algorithm, learner, state)


def _require_step(config: Config, probe: Probe, algorithm: Algorithm) -> None:
    """Traces a step, so that what plugins have made wrong is known before anything is created.

    Raises:
        Exception: whatever a plugin's functions raise.
        ConfigError: the step takes or returns something else than it should.
    """
    wanted, name = composition(config), config.agent.algorithm
    takes = algorithm.online, algorithm.further
    plays = wanted.online_batches, wanted.bootstrap_batches
    if takes != plays:
        raise ConfigError(
            f"agent.algorithm={name}: online={takes[0]} and further={takes[1]}, but "
            "meta.inner_steps, meta.bootstrap_steps and meta.keep_bootstrapped say that as many "
            f"batches come: {plays[0]} and {plays[1]}"
        )
    state = jax.eval_shape(algorithm.init, jax.random.key(config.seed))
    online, further = (_batches(config.learner, probe, count) if count else None for count in takes)
    new, metrics = jax.eval_shape(algorithm.step, state, online, further)
    if jax.tree.map(_shape, new) != jax.tree.map(_shape, state):
        raise ConfigError(
            f"agent.algorithm={name}: a step returns a state of other arrays than it takes"
        )
    if "loss/total" not in metrics:
        raise ConfigError(
            f"agent.objective={config.agent.objective}: the metrics of its loss lack loss/total"
        )


def _shape(x: Any) -> tuple[Any, ...]:
    return x.shape, x.dtype


def _batches(learner: LearnerConfig, probe: Probe, count: int) -> Trajectory:
    """Shapes of so many batches of unrolls, [N, T, B, ...], as actors send them."""
    steps, envs = learner.unroll_length, learner.batch_size
    rows, shape = steps + 1, probe.observation_shape
    if probe.single_frames:
        rows, shape = steps + shape[-1], shape[:-1]

    def of(dtype: Any, *more: int, rows: int = steps) -> Any:
        return jax.ShapeDtypeStruct((count, rows, envs, *more), dtype)

    return Trajectory(
        observation=of(probe.observation_dtype, *shape, rows=rows),
        action=of(np.int32),
        reward=of(np.float32),
        discount=of(np.float32),
        behaviour_logits=of(np.float32, probe.num_actions),
        valid=of(np.bool_),
    )


def unroll_bytes(probe: Probe, unroll_length: int, envs: int) -> int:
    """Size of what one unroll call returns: its observations, which are nearly all of it."""
    frames = unroll_length + 1
    size = math.prod(probe.observation_shape) * np.dtype(probe.observation_dtype).itemsize
    if probe.single_frames:  # each frame once, and the rest of the first stack
        stack = probe.observation_shape[-1]
        frames, size = frames + stack - 1, size // stack
    return envs * frames * size


class Playing(NamedTuple):
    """Where a run's experience comes from, and the learner that learns from it."""

    source: ExperienceSource  # to be closed
    replay: Replay | None  # where anything is replayed
    runtime: FromSource


def start_playing(config: Config, agent: Agent, starts: int) -> Playing:
    """Starts what plays, as `build_source` does, and composes its batches.

    Args:
        config: of the run.
        agent: which plays and learns.
        starts: how often the run was started before.
    """
    wanted, learner = composition(config), config.learner
    source = build_source(config, agent.probe, starts)
    seeds = config.seed, starts + 1, learner.process
    replay = Replay(config.replay.max_bytes, seeds) if wanted.needs_replay else None
    norm = learner.max_gradient_norm
    runtime = FromSource(agent.learner, source, wanted, replay, max_gradient_norm=norm)
    return Playing(source, replay, runtime)


def build_source(config: Config, probe: Probe, starts: int) -> ExperienceSource:
    """Where experience comes from. With `actors.runtime=ray`, Ray is connected already.

    Args:
        config: of the run.
        probe: of its environment.
        starts: how often the run was started before; each start draws other random numbers.
    """
    each = config.part_of_process().new_unrolls // config.actors.envs_per_actor
    unrolls_per_batch = composition(config).online_batches * each
    serials = _serials(config.actors.count, config.learner, starts)
    if config.actors.runtime == "in_process":
        from actors.in_process import InProcessSource

        return InProcessSource(
            server_spec(config),
            serials,
            count=config.actors.count,
            unrolls_per_batch=unrolls_per_batch,
        )
    from actors.cluster import Resources
    from actors.pool import PoolSettings, RaySource

    actors = config.actors
    settings = PoolSettings(
        mode=actors.mode,
        actors=actors.count,
        unrolls_per_batch=unrolls_per_batch,
        unrolls_in_flight=actors.unrolls_in_flight,
        max_bytes_in_flight=actors.max_bytes_in_flight,
        unroll_bytes=unroll_bytes(probe, config.learner.unroll_length, actors.envs_per_actor),
        max_policy_lag=actors.max_policy_lag * composition(config).online_batches,
        unroll_timeout_seconds=actors.unroll_timeout_seconds,
        max_failures=actors.max_failures,
        environment_variables=jax_environment.of_an_actor(
            actors.threads_per_actor,
            actors.gpus_per_actor if actors.device == "gpu" else 0.0,
            jax.config.jax_compilation_cache_dir,  # pyright: ignore[reportAttributeAccessIssue]
        ),
        resources=Resources(
            cpus=actors.cpus_per_actor,
            memory_bytes=actors.memory_mb_per_actor * 2**20,
            gpus=actors.gpus_per_actor if actors.device == "gpu" else 0.0,
        ),
    )
    return RaySource(server_spec(config), settings, serials)


def _serials(count: int, learner: LearnerConfig, starts: int) -> Iterator[int]:
    """Of this process's actors in order of their start; no two of a run have the same.

    The first ones are numbered through all learner processes, so that with the same actors in all a
    run has the same streams, whatever the number of processes. Replacements come after them all.
    """
    processes, index = learner.processes, learner.process
    first = starts * _SERIALS_PER_START
    return itertools.chain(
        range(first + index * count, first + (index + 1) * count),
        itertools.count(first + processes * count + index, processes),
    )


def restore_experience(
    saved: dict[str, np.ndarray], source: ExperienceSource, replay: Replay | None, params: Params
) -> None:
    """Goes on with the experience of a checkpoint, where the source can be saved.

    Args:
        saved: by `FromSource.save`.
        source: as the checkpoint's, not asked for anything yet.
        replay: as the checkpoint's, still empty.
        params: give the structure.
    """
    from actors.in_process import InProcessSource
    from actors.server import under

    servers = {name.split("/")[2] for name in saved if name.startswith("source/server/")}
    if not isinstance(source, InProcessSource) or len(servers) != source.servers:
        return  # actors.count has changed
    source.restore(under("source/", saved), params)
    if replay is not None:
        replay.restore(under("replay/", saved))


def _devices(learner: LearnerConfig) -> list[Any]:
    available, processes = jax.local_devices(), learner.processes
    count = learner.devices or len(available)
    if count > len(available):
        raise ConfigError(
            f"learner.devices={count}: this machine has {len(available)} "
            f"({available[0].platform}); 0 takes all"
        )
    if learner.batch_size % (count * processes):
        raise ConfigError(
            f"learner.batch_size={learner.batch_size}: must be a multiple of the "
            f"{count * processes} devices that share it (learner.devices, learner.processes)"
        )
    return [d for i in range(processes) for d in jax.local_devices(process_index=i)[:count]]
