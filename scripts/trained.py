"""What a run has learned, read back on this machine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agents.networks import Params
from configs.load import ConfigError
from configs.schema import Config
from learner.checkpoint import CheckpointError, Checkpoints, Snapshot, open_snapshots
from learner.loop import Progress
from learner.run_folder import CHECKPOINTS
from scripts import build, on_device
from scripts.build import Probe
from scripts.check import RunFailed
from scripts.record import AnyState


class Trained(NamedTuple):
    """The agents of a checkpoint or of a snapshot."""

    agents: list[Params]  # one, or that of each seed of a program
    progress: Progress  # of their training
    probe: Probe  # of their environment


def read_checkpoint(path: Path, config: Config, version: int | None = None) -> Trained:
    """The agents of a run's checkpoint.

    Args:
        path: of the run folder.
        config: of the run, as `scripts.evaluate.on_this_machine` makes it.
        version: learner updates; None: the newest good one.

    Raises:
        ConfigError: there is no such checkpoint.
        RunFailed: it is damaged, or all are.
    """
    kept = kept_checkpoints(path, config.checkpoint.keep)
    versions = kept.versions()
    if version is not None and version not in versions:
        there = ", ".join(map(str, versions))
        raise ConfigError(f"{path} holds no checkpoint {version}; there are {there}")
    like, probe, agents_of = _like(config)
    state, progress = restored(kept, like, version)
    return Trained(agents_of(state), progress, probe)


def kept_checkpoints(path: Path, keep: int) -> Checkpoints:
    """Those of a run folder, at least one.

    Raises:
        ConfigError: there is none.
    """
    kept = Checkpoints(path / CHECKPOINTS, keep)
    if not kept.versions():
        raise ConfigError(f"{path} holds no checkpoint yet; train it first")
    return kept


def restored(kept: Checkpoints, like: AnyState, version: int | None) -> tuple[AnyState, Progress]:
    """A state of checkpoints; None: the newest good one.

    Raises:
        RunFailed: it is damaged, or all are.
    """
    try:
        return kept.restore(like) if version is None else kept.load(version, like)
    except CheckpointError as error:
        raise RunFailed(str(error)) from error


def read_snapshots(path: Path, config: Config) -> Iterator[Trained]:
    """The agents of a run's snapshots, one after the other; as `read_checkpoint`.

    Raises:
        ConfigError: there are none.
        RunFailed: one of them is damaged.
    """
    kept = open_snapshots(path)
    if not kept.versions():
        raise ConfigError(
            f"{path} holds no snapshots; train with evaluation.every_frames=10000000, say"
        )
    like, probe, _ = _like(config)
    for version in kept.versions():
        snapshot, progress = restored(kept, Snapshot(like.inner.params), version)
        yield Trained([snapshot.params], progress, probe)


def _like(config: Config) -> tuple[Any, Probe, Callable[[Any], list[Params]]]:
    """A state as the run's, what its environment is like, and the agents in such a state."""
    if not config.actors.on_device:
        probe = build.probe_environment(config.env, config.seed)
        state = build.build_agent(config, probe).initial_state
        return state, probe, lambda state: [state.inner.params]
    environment = on_device.build_environment(config.env)
    algorithm = on_device.build_algorithm(config, environment)
    learner = on_device.build_seeds_learner(algorithm, config.learner, config.all_seeds)
    probe = Probe(
        environment.num_actions,
        environment.observation_shape,
        environment.observation_dtype,
        single_frames=False,
    )
    return learner.initial_state(), probe, on_device.policies
