"""`bmg evaluate`: scores of a run's newest good checkpoint, or of its snapshots."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from configs.load import ConfigError, load
from configs.schema import Config
from learner import reading
from scripts import jax_environment, plugins
from scripts.check import check
from scripts.check_few_shot import check_evaluation
from scripts.folders import require_run
from scripts.resuming import check_same_run


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
        episodes: of few-shot learning, tasks; None: ten (600 tasks), or with `snapshots` what the
            run's `evaluation.episodes` says.
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
    require_run(run_dir)
    import_all = functools.partial(plugins.import_all, say=True)
    source = str(path / "config.yaml")
    config = load(source, (), import_all)
    check_same_run(config, path)
    plugins.say_game(config.env, source)
    if config.env.is_few_shot:
        check_evaluation(policy, protocol, video, snapshots)
    if config.actors.on_device:
        _check_on_device(config.agent.algorithm, config.env.suite, video, snapshots)
    config = on_this_machine(config)
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
    from scripts import runtime
    from scripts.evaluation import Game
    from scripts.trained import read_checkpoint, read_snapshots

    runtime.prepare_jax(config.learner.gpu_memory)
    jax_environment.require_device()
    if config.env.is_few_shot:
        from scripts.evaluate_few_shot import evaluate as evaluate_tasks

        return evaluate_tasks(path, config, seed, episodes)
    game = Game(path, config, policy, seed)
    if not snapshots:
        game.play(read_checkpoint(path, config), episodes or 10, at=False, video=video)
        return 0
    for trained in read_snapshots(path, config):
        if not _is_played(game.file(trained.progress, at=True)):
            game.play(trained, episodes or config.evaluation.episodes, at=True)
    return 0


def require_policy(algorithm: str) -> None:
    """Refuses a run whose agents do not act by a policy of their own.

    Raises:
        ConfigError: one line.
    """
    if algorithm.startswith("q_lambda"):
        raise ConfigError(
            f"agent.algorithm={algorithm}: its agents have no policy of their own to "
            "evaluate; `bmg report` shows what they collected while they learned"
        )


def _check_on_device(algorithm: str, suite: str, video: str | None, snapshots: bool) -> None:
    require_policy(algorithm)
    if snapshots:
        raise ConfigError("--snapshots: a run with actors.runtime=on_device keeps none")
    if video is not None and suite != "catch":
        raise ConfigError(f"--video: env.suite={suite} has no pictures")


def _is_played(file: Path) -> bool:
    """Whether an evaluation is there, and whole."""
    try:
        reading.read_evaluation(file)
    except (reading.Unreadable, FileNotFoundError):
        return False
    return True


def on_this_machine(config: Config) -> Config:
    """The configuration of a run whose agents play in this process.

    The training's cluster, devices and learner processes do not matter.
    Neither does a schedule of hyper-parameters, whose run may be gone: such a learner's state is
    that of one whose hyper-parameters are fixed.
    """
    agent = config.agent
    runtime = "on_device" if config.actors.on_device else "in_process"
    if config.hyperparameters_from is not None:
        agent = agent.model_copy(update={"algorithm": "impala"})
    return config.model_copy(
        update={
            "hyperparameters_from": None,
            "agent": agent,
            "actors": config.actors.model_copy(update={"runtime": runtime}),
            "learner": config.learner.model_copy(
                update={"devices": 1, "processes": 1, "process": 0}
            ),
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
