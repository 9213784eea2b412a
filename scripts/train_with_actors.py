"""`bmg train` where actors play: on Ray, or in the learner's own process."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agents.algorithm import State
from agents.trajectory import SourceFailed
from configs import load as config_load
from configs.load import ConfigError
from configs.schema import Config, LearnerConfig
from learner import processes
from learner.checkpoint import Checkpoints, Snapshot, open_snapshots
from learner.loop import Events, LearningDiverged, LoopSettings, Progress
from learner.loop import run as run_loop
from learner.processes import from_first
from learner.run_folder import configuration_of
from scripts import build, jax_environment, memory, ray_start, ray_watch, runtime
from scripts.build import Agent, Playing
from scripts.check import RunFailed, say_without_effect
from scripts.display import Display
from scripts.folders import hold
from scripts.output import say
from scripts.record import AnyState, Record, loop_settings, open_checkpoints, starting_point
from scripts.resuming import keep_schedule, say_if_schedule_moved, with_own_schedule
from scripts.runtime import StopSignals


def run(
    config: Config,
    path: Path,
    resume: bool,
    without_effect: Mapping[str, str],
    display: Display,
    profile: bool,
) -> int:
    """Trains, and returns the exit status; as `scripts.train.train`.

    Args:
        config: of the run.
        path: of its folder.
        resume: whether to go on with what is there.
        without_effect: keys that were given and act nowhere, and why.
        display: of what the run waits for, and of its metrics.
        profile: whether to trace a few steps.

    Raises:
        ConfigError: nothing was created or started.
        RunFailed: with the reason. What has begun to learn says `failed` in its run folder.
    """
    display.wait(lambda: "making the environment and the agent")
    agent = prepare(config, path)
    probe = agent.probe
    say_without_effect(without_effect)
    build.say_if_network_is_another(config.agent.network, probe, config.env.game)
    actors = config.actors
    display.wait(lambda: ray_start.told(actors))
    follows = config.learner.process > 0
    checkpoints = None if follows else open_checkpoints(config, path, resume)
    stop = runtime.StopSignals()
    joins = actors.runtime == "ray" and actors.ray_address is not None
    if not joins:  # which may still be refused
        display.begin()
    try:
        length, envs = config.learner.unroll_length, actors.envs_per_actor
        ray_start.connect(actors, build.unroll_bytes(probe, length, envs))
    except RunFailed:
        if stop():
            return stop.exit_status()
        raise
    with stop.obeyed(), contextlib.ExitStack() as stack:
        stack.callback(ray_start.disconnect, actors)
        if stop() and config.learner.processes == 1:  # others would wait for this one
            return stop.exit_status()
        if joins:
            display.begin()
        if checkpoints is None:
            start = functools.partial(build.start_playing, config, agent)
            progress = _follow(agent.initial_state, start, loop_settings(config), stop)
        else:
            progress = _lead(config, agent, checkpoints, path, resume, stop, display, profile)
    return 0 if progress.frames >= config.total_frames else stop.exit_status()


def prepare(config: Config, path: Path) -> Agent:
    """Makes JAX ready, joins the other learner processes, and builds the agent.

    Args:
        config: of the run.
        path: of its folder.

    Raises:
        ConfigError: nothing was created or started.
    """
    runtime.prepare_jax(config.learner.gpu_memory)
    _join(config.learner)
    jax_environment.require_device()
    probe = build.probe_environment(config.env, config.seed)
    agent = build.build_agent(with_own_schedule(config, path), probe)
    memory.check_memory(config, probe, agent.network)
    return agent


def _join(learner: LearnerConfig) -> None:
    """Joins the other learner processes, where there are any.

    Raises:
        ConfigError: they do not come.
    """
    if learner.coordinator is None or learner.processes == 1:
        return
    try:
        processes.join(learner.coordinator, learner.processes, learner.process)
    except RuntimeError as error:
        raise ConfigError(f"learner.coordinator={learner.coordinator}: {error}") from error


def _lead(
    config: Config,
    agent: Agent,
    checkpoints: Checkpoints,
    path: Path,
    resume: bool,
    stop: StopSignals,
    display: Display,
    profile: bool,
) -> Progress:
    """The learner process that writes the run folder; nearly always the only one."""
    with hold(path, resume), ray_watch.watched(*ray_start.watched(config.actors, path)):
        earlier = config_load.load(str(configuration_of(path))) if resume else config
        state, progress = starting_point(agent.initial_state, checkpoints, path, resume)
        state, progress = shared_start(state, progress)
        record = Record(config, path, agent.probe.num_actions, display, profile)
        with contextlib.closing(record):
            keep_schedule(config.hyperparameters_from, path)
            horizons = earlier.horizon, config.horizon
            say_if_schedule_moved(config.learner, *horizons, progress.frames)
            start = functools.partial(build.start_playing, config, agent)
            _learn(start, loop_settings(config), state, progress, checkpoints, record, stop)
        say(f"{record.status}: {progress.frames:,} frames, {progress.updates:,} updates; {path}")
    return progress


def _learn(
    start: Callable[[int], Playing],
    settings: LoopSettings,
    state: State,
    progress: Progress,
    checkpoints: Checkpoints,
    record: Record,
    stop: StopSignals,
) -> None:
    """Runs the loop to its end and writes the last checkpoint and the status."""
    snapshots = open_snapshots(record.path)

    def on_checkpoint(state: State, progress: Progress, experience: Any) -> None:
        with stop.saving():
            checkpoints.save(state, progress, experience)
            record.note("running")

    def on_snapshot(state: State, progress: Progress) -> None:
        with stop.saving():
            snapshots.save(Snapshot(state.inner.params), progress)

    with (
        record.noting_how_it_ends(progress),
        stop.noting(functools.partial(record.note, "interrupted")),
        contextlib.ExitStack() as stack,
    ):
        source, replay, runtime = start(progress.starts)
        stack.enter_context(contextlib.closing(source))
        experience = checkpoints.experience(progress) if progress.starts else None
        if experience is not None:
            build.restore_experience(experience, source, replay, state.inner.params)
        progress.starts += 1
        record.display.wait(runtime.waits_for)
        # So that a run killed early can be resumed, too.
        on_checkpoint(state, progress, runtime.save())
        events = Events(record.metrics, on_checkpoint, on_snapshot, record.before_step)
        state = run_loop(runtime, state, progress, settings, stop, events)
        experience = runtime.save()
        with stop.saving():
            checkpoints.save(state, progress, experience)


def _follow(
    state: State, start: Callable[[int], Playing], settings: LoopSettings, stop: StopSignals
) -> Progress:
    """A learner process that shares the batches of the first one, and leaves the writing to it.

    Raises:
        RunFailed: with the reason.
    """
    state, progress = shared_start(state, Progress())
    try:
        playing = start(progress.starts)
        with contextlib.closing(playing.source):
            run_loop(playing.runtime, state, progress, settings, stop, Events())
    except (SourceFailed, LearningDiverged) as error:
        raise RunFailed(f"learner process {jax.process_index()}: {error}") from error
    return progress


def shared_start(state: AnyState, progress: Progress) -> tuple[AnyState, Progress]:
    """The first learner process's state and counters, in all of them."""
    if jax.process_count() == 1:
        return state, progress
    counters = {k: v for k, v in vars(progress).items() if isinstance(v, int | float)}
    numbers = np.asarray([*counters.values()], np.float64)  # exact below 2**53
    state, sent = from_first((jax.device_get(state), numbers.view(np.uint8)))
    values = np.asarray(sent).view(np.float64)
    shared = {
        name: type(counter)(value)
        for (name, counter), value in zip(counters.items(), values, strict=True)
    }
    return state, dataclasses.replace(progress, **shared)
