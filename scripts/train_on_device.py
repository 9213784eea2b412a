"""`bmg train` where the environment runs on the learner's device: all seeds in one program."""

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.load import flat
from configs.schema import Config
from learner.loop import Events, Progress
from learner.loop import run as run_loop
from learner.on_device import CurvePoint, OnDevice, SeedsLearner, SeedsState
from learner.run_folder import SEEDS
from learner.seed_curves import SeedCurves
from scripts import jax_environment, memory, on_device, plugins, runtime
from scripts.check import RunFailed, say_without_effect
from scripts.display import Display
from scripts.folders import hold
from scripts.output import say
from scripts.record import Record, loop_settings, open_checkpoints, starting_point
from scripts.resuming import keep_schedule, with_own_schedule


def prepare(config: Config, path: Path) -> tuple[SeedsLearner, int]:
    """Makes JAX ready, and the learner as `build_learner` does.

    Raises:
        ConfigError: JAX finds no device, or as `build_learner`.
    """
    on_device.use_all_cores(config.learner.devices, config.seeds)
    runtime.prepare_jax(config.learner.gpu_memory)
    jax_environment.require_device()
    return build_learner(config, path)


def build_learner(config: Config, path: Path) -> tuple[SeedsLearner, int]:
    """The learner of all seeds, and how many actions its environment has (tasks have none).

    Args:
        config: of the run.
        path: of its folder.

    Raises:
        ConfigError: it cannot be built, or does not fit into memory.
    """
    if config.env.is_few_shot:
        from scripts import few_shot

        tasks = few_shot.build_tasks(config.few_shot, config.env.game, config.agent.network)
        needs = [memory.Need("images", few_shot.data_bytes(tasks), ("few_shot.image_size",))]
        memory.require(flat(config.model_dump()), needs, memory.memory_bytes())
        return few_shot.build_few_shot_learner(config, tasks), 0
    environment = on_device.build_environment(config.env)
    with plugins.blamed(config.plugins, "the learner cannot be built"):
        algorithm = on_device.build_algorithm(with_own_schedule(config, path), environment)
        if config.plugins:
            on_device.trace_step(algorithm)
    memory.check_on_device(config, environment, algorithm)
    learner = on_device.build_seeds_learner(algorithm, config.learner, config.all_seeds)
    return learner, environment.num_actions


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
        ConfigError: nothing was created.
        RunFailed: with the reason. What has begun to learn says `failed` in its run folder.
    """
    what = "making the tasks and the learner" if config.env.is_few_shot else "making the learner"
    display.wait(lambda: what)
    learner, num_actions = prepare(config, path)
    say_without_effect(without_effect)
    checkpoints = open_checkpoints(config, path, resume)
    stop = runtime.StopSignals()
    with contextlib.ExitStack() as stack:
        stack.enter_context(stop.obeyed())
        stack.enter_context(hold(path, resume))
        display.begin()
        state, progress = starting_point(learner.initial_state(), checkpoints, path, resume)
        curves = SeedCurves(path / SEEDS, learner.seeds)
        if progress.frames:
            try:
                curves.read(progress.frames)
            except Exception as error:  # a damaged archive raises a dozen kinds
                raise RunFailed(f"{path / SEEDS} cannot be read: {error}") from error
        progress.starts += 1
        record = Record(config, path, num_actions, display, profile)
        stack.enter_context(contextlib.closing(record))
        keep_schedule(config.hyperparameters_from, path)

        def on_point(point: CurvePoint) -> None:
            curves.add(point)
            record.seeds(point, progress.updates)

        def save(state: SeedsState, progress: Progress) -> None:
            with stop.saving():
                curves.save()  # first: a checkpoint without its curves could not be resumed
                checkpoints.save(state, progress)

        def on_checkpoint(state: SeedsState, progress: Progress, experience: Any) -> None:
            del experience
            save(state, progress)
            record.note("running")

        interrupted = functools.partial(record.note, "interrupted")
        with record.noting_how_it_ends(progress), stop.noting(interrupted):
            on_checkpoint(state, progress, None)
            playing = OnDevice(learner, on_point)
            display.wait(playing.waits_for)
            state = run_loop(
                playing,
                state,
                progress,
                loop_settings(config),
                stop,
                Events(record.metrics, on_checkpoint, before_step=record.before_step),
            )
            save(state, progress)
        say(
            f"{record.status}: {len(learner.seeds)} seeds x {progress.frames:,} "
            f"{config.env.unit}, {progress.updates:,} updates each; {path}"
        )
    return 0 if record.status == "finished" else stop.exit_status()
