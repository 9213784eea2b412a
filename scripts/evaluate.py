"""`bmg evaluate`: scores of a run's newest good checkpoint, or of its snapshots."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from configs.load import ConfigError, load
from configs.schema import Config
from learner import reading
from scripts import jax_environment, plugins
from scripts.check import RunFailed, check
from scripts.resuming import check_same_run

if TYPE_CHECKING:  # jax is imported once the arguments are known to be good
    from learner.checkpoint import Checkpoints


def evaluate(
    run_dir: str,
    episodes: int | None,
    seed: int,
    video: str | None,
    policy: str,
    protocol: str | None,
    snapshots: bool,
) -> int:
    """Plays whole games with fixed parameters and writes what came of it into the run folder.

    Args:
        run_dir: a run folder.
        episodes: None: ten, or with `snapshots` what the run's `evaluation.episodes` says.
        seed: of environments and actions.
        video: where to film one more episode.
        policy: sample, greedy or random.
        protocol: of the environment; None: the run's `evaluation.protocol`.
        snapshots: plays each snapshot of the training instead of the newest checkpoint, but for
            those that were played before.

    Raises:
        ConfigError: the folder holds no run, or no checkpoint, or the video cannot be written.
        RunFailed: all its checkpoints are damaged, or the environment raises.
    """
    path = Path(run_dir)
    if not os.path.isfile(path / "config.yaml"):
        raise ConfigError(f"{run_dir} holds no run (no config.yaml); give a run folder")
    import_all = functools.partial(plugins.import_all, say=True)
    config = load(str(path / "config.yaml"), (), import_all)
    check_same_run(config, path)
    _check_on_device(config, video, snapshots)
    config = _on_this_machine(config)
    protocol = protocol or config.evaluation.protocol
    evaluation = config.evaluation.model_copy(update={"protocol": protocol})
    config = config.model_copy(update={"evaluation": evaluation})
    check(config)
    if not os.access(path, os.W_OK):
        raise ConfigError(f"{run_dir}: cannot be written, and evaluation.json goes there")
    _check_video(video)
    if snapshots and video is not None:
        raise ConfigError("--video films the newest checkpoint; leave out --snapshots")

    jax_environment.require_jax()
    from learner.checkpoint import CheckpointError, Checkpoints, Snapshot, open_snapshots
    from scripts import build, runtime
    from scripts.evaluation import Game

    kept = (
        open_snapshots(path)
        if snapshots
        else Checkpoints(path / "checkpoints", config.checkpoint.keep)
    )
    if not kept.versions():
        raise ConfigError(
            f"{run_dir} holds no snapshots; train with evaluation.every_frames=10000000, say"
            if snapshots
            else f"{run_dir} holds no checkpoint yet; train it first"
        )
    runtime.use_compilation_cache()
    jax_environment.require_device()
    learner = config.learner.model_copy(update={"devices": 1, "processes": 1, "process": 0})
    config = config.model_copy(update={"learner": learner})  # of this machine, not the run's
    if config.runs_on_device:
        return _evaluate_seeds(path, config, policy, seed, kept, episodes or 10, video)
    probe = build.probe_environment(config)
    game = Game(path, config, policy, seed, probe.num_actions)
    like = build.build_agent(config, probe).initial_state
    if snapshots:
        for version in kept.versions():
            try:
                snapshot, progress = kept.load(version, Snapshot(like.inner.params))
            except CheckpointError as error:
                raise RunFailed(str(error)) from error
            if not _is_played(game.file(progress, at=True)):
                count = episodes or config.evaluation.episodes
                game.play([snapshot.params], progress, count, at=True)
        return 0
    try:
        state, progress = kept.restore(like)
    except CheckpointError as error:
        raise RunFailed(str(error)) from error
    game.play([state.inner.params], progress, episodes or 10, at=False, video=video)
    return 0


def _check_on_device(config: Config, video: str | None, snapshots: bool) -> None:
    if not config.runs_on_device:
        return
    if config.agent.algorithm.startswith("q_lambda"):
        raise ConfigError(
            f"agent.algorithm={config.agent.algorithm}: its agents have no policy of their own to "
            "evaluate; `bmg report` shows what they collected while they learned"
        )
    if snapshots:
        raise ConfigError("--snapshots: a run with actors.runtime=on_device keeps none")
    if video is not None and config.env.suite != "catch":
        raise ConfigError(f"--video: env.suite={config.env.suite} has no pictures")


def _evaluate_seeds(
    path: Path,
    config: Config,
    policy: str,
    seed: int,
    kept: Checkpoints,
    episodes: int,
    video: str | None,
) -> int:
    """Plays the agents of all seeds of a program, one after the other."""
    from learner.checkpoint import CheckpointError
    from scripts import on_device
    from scripts.evaluation import Game

    environment = on_device.build_environment(config.env)
    algorithm = on_device.build_algorithm(config, environment)
    learner = on_device.build_seeds_learner(config, algorithm)
    game = Game(path, config, policy, seed, environment.num_actions)
    try:
        state, progress = kept.restore(learner.initial_state())
    except CheckpointError as error:
        raise RunFailed(str(error)) from error
    game.play(on_device.policies(state), progress, episodes, at=False, video=video)
    return 0


def _is_played(file: Path) -> bool:
    """Whether an evaluation is there, and whole."""
    try:
        reading.read_evaluation(file)
    except (reading.Unreadable, FileNotFoundError):
        return False
    return True


def _on_this_machine(config: Config) -> Config:
    """Evaluation plays in this process: the training's cluster and devices do not matter.

    Neither does a schedule of hyper-parameters, whose run may be gone: such a learner's state is
    that of one whose hyper-parameters are fixed.
    """
    agent = config.agent
    runtime = "on_device" if config.runs_on_device else "in_process"
    if config.hyperparameters_from is not None:
        agent = agent.model_copy(update={"algorithm": "impala"})
    return config.model_copy(
        update={
            "hyperparameters_from": None,
            "agent": agent,
            "actors": config.actors.model_copy(update={"runtime": runtime}),
            "learner": config.learner.model_copy(update={"devices": 1}),
            "logging": config.logging.model_copy(update={"wandb": False}),
        }
    )


def _check_video(video: str | None) -> None:
    """Refuses a file that cannot be written.

    Raises:
        ConfigError: one line.
    """
    if video is None:
        return
    path = Path(video)
    if path.suffix != ".mp4":
        raise ConfigError(f"--video {video}: must end in .mp4")
    if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise ConfigError(f"--video {video}: cannot write to {path.absolute().parent}")
