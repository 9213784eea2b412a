"""`bmg train` where the environment runs on the learner's device: all seeds in one program."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from actors.environments.device import DeviceEnvironment
from agents.algorithm import Algorithm
from configs.schema import Config
from learner.on_device import SeedsLearner, SeedsState
from scripts import jax_environment, memory, on_device, runtime
from scripts.check import RunFailed, is_few_shot, is_on_policy
from scripts.output import say
from scripts.runs import SEEDS_FILE
from scripts.train import (
    Record,
    hold,
    keep_schedule,
    loop_settings,
    open_checkpoints,
    say_without_effect,
    starting_point,
    with_own_schedule,
)


def check_memory(config: Config, environment: DeviceEnvironment, algorithm: Algorithm) -> None:
    """Refuses a run that surely does not fit into this machine's memory.

    Raises:
        ConfigError: one line with the sum and the keys that decide it.
    """
    keys = ("seeds", "learner.unroll_length", "meta.hidden", "meta.bootstrap_steps")
    state = on_device.state_bytes(algorithm, config.seeds)
    needs = [memory.Need("the state of all seeds", state, keys)]
    if not is_on_policy(config):
        batch = on_device.batch_bytes(config, environment)
        steps = ("meta.inner_steps", "meta.bootstrap_steps")
        keys = ("learner.batch_size", "learner.unroll_length", *steps)
        needs.append(memory.Need("batches", algorithm.online * batch, keys))
    memory.require(config, needs, memory.memory_bytes())


def build_learner(config: Config, path: Path) -> tuple[SeedsLearner, int]:
    """The learner of all seeds, and how many actions its environment has (tasks have none).

    Args:
        config: of the run.
        path: of its folder.

    Raises:
        ConfigError: it cannot be built, or does not fit into memory.
    """
    if is_few_shot(config):
        from scripts import few_shot

        tasks = few_shot.build_tasks(config)
        needs = [memory.Need("images", few_shot.data_bytes(tasks), ("few_shot.image_size",))]
        memory.require(config, needs, memory.memory_bytes())
        return few_shot.build_few_shot_learner(config, tasks), 0
    environment = on_device.build_environment(config.env)
    algorithm = on_device.build_algorithm(with_own_schedule(config, path), environment)
    check_memory(config, environment, algorithm)
    return on_device.build_seeds_learner(config, algorithm), environment.num_actions


def run(config: Config, path: Path, resume: bool, without_effect: Sequence[str]) -> int:
    """Trains, and returns the exit status; as `scripts.train.train`.

    Args:
        config: of the run.
        path: of its folder.
        resume: whether to go on with what is there.
        without_effect: keys that were given and act nowhere.

    Raises:
        ConfigError: nothing was created.
        RunFailed: with the reason. What has begun to learn says `failed` in its run folder.
    """
    on_device.use_all_cores(config.learner.devices, config.seeds)
    runtime.use_compilation_cache()
    runtime.limit_gpu_memory(config.learner.gpu_memory)
    jax_environment.require_device()
    from learner.loop import Progress
    from learner.on_device import run as run_loop
    from learner.seed_curves import SeedCurves

    learner, num_actions = build_learner(config, path)
    say_without_effect(without_effect)
    checkpoints = open_checkpoints(config, path, resume)
    stop = runtime.StopSignals()
    with contextlib.ExitStack() as stack:
        stack.enter_context(hold(path, resume))
        state, progress = starting_point(learner.initial_state(), checkpoints, path, resume)
        curves = SeedCurves(path / SEEDS_FILE, learner.seeds)
        if progress.frames:
            try:
                curves.read(progress.frames)
            except Exception as error:  # a damaged archive raises a dozen kinds
                raise RunFailed(f"{path / SEEDS_FILE} cannot be read: {error}") from error
        progress.starts += 1
        record = Record(config, path, num_actions)
        stack.enter_context(contextlib.closing(record))
        keep_schedule(config, path)

        def save(state: SeedsState, progress: Progress) -> None:
            curves.save()  # first: a checkpoint without its curves could not be resumed
            checkpoints.save(state, progress)

        def on_checkpoint(state: SeedsState, progress: Progress) -> None:
            save(state, progress)
            record.note("running")

        with record.noting_how_it_ends(config, progress):
            on_checkpoint(state, progress)
            state = run_loop(
                learner,
                state,
                progress,
                loop_settings(config),
                stop=stop,
                on_point=curves.add,
                on_metrics=record.metrics,
                on_checkpoint=on_checkpoint,
            )
            save(state, progress)
        say(
            f"{record.status}: {len(learner.seeds)} seeds x {progress.frames:,} "
            f"{'tasks' if is_few_shot(config) else 'frames'}, {progress.updates:,} updates each; "
            f"{path}"
        )
    return 0 if record.status == "finished" else stop.exit_status()
