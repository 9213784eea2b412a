"""`bmg evaluate`: scores of a run's newest good checkpoint."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import ConfigError, load
from configs.schema import Config
from scripts.check import RunFailed, check, environment_spec, runs_on_device

_ENVIRONMENTS = 10  # side by side
_FRAMES_PER_SECOND = {"atari": 60, "catch": 5, "gymnasium": 30}


def evaluate(run_dir: str, episodes: int, seed: int, video: str | None, policy: str) -> int:
    """Plays whole games with fixed parameters and writes what came of it into the run folder.

    Raises:
        ConfigError: the folder holds no run, or no checkpoint, or the video cannot be written.
        RunFailed: all its checkpoints are damaged.
    """
    path = Path(run_dir)
    if not (path / "config.yaml").is_file():
        raise ConfigError(f"{run_dir} holds no run (no config.yaml); give a run folder")
    config = _on_this_machine(load(str(path / "config.yaml")))
    if runs_on_device(config):
        raise ConfigError(
            f"{run_dir}: env.suite={config.env.suite} has no episodes to play; `bmg report` shows "
            "what its agents collected"
        )
    check(config)
    if not os.access(path, os.W_OK):
        raise ConfigError(f"{run_dir}: cannot be written, and evaluation.json goes there")
    _check_video(video)

    from actors.environments.suites import protocol
    from actors.evaluation import play_episodes
    from learner.checkpoint import CheckpointError, Checkpoints
    from learner.run_folder import write_json
    from scripts import build, runtime

    checkpoints = Checkpoints(path / "checkpoints", config.checkpoint.keep)
    if not checkpoints.versions():
        raise ConfigError(f"{run_dir} holds no checkpoint yet; train it first")
    runtime.use_compilation_cache()
    probe = build.probe_environment(config)
    learner = config.learner.model_copy(update={"devices": 1, "processes": 1, "process": 0})
    config = config.model_copy(update={"learner": learner})  # of this machine, not the run's
    try:
        state, progress = checkpoints.restore(build.build_agent(config, probe).initial_state)
    except CheckpointError as error:
        raise RunFailed(str(error)) from error
    spec, params = environment_spec(config.env), state.inner.params
    played = play_episodes(
        spec,
        config.agent.network,
        policy,
        params,
        episodes=episodes,
        seed=seed,
        num_envs=_ENVIRONMENTS,
        threads=os.cpu_count() or 1,
    )
    scores = np.asarray([episode.score for episode in played])
    error = float(scores.std(ddof=1) / np.sqrt(episodes)) if episodes > 1 else None
    result: dict[str, Any] = {
        "mean_return": float(scores.mean()),
        "standard_error": error,
        "episodes": episodes,
        "policy": policy,
        "seed": seed,
        "frames": progress.frames,
        "learner_updates": progress.updates,
        **_normalised(config.env.suite, config.env.game, float(scores.mean())),
        "protocol": {
            **protocol(spec, config.env.reward_clip),
            "actions": probe.num_actions,
        },
        "returns": scores.tolist(),
        "lengths": [episode.frames for episode in played],
    }
    name = "evaluation.json" if policy == "sample" else f"evaluation-{policy}.json"
    write_json(path / name, result)
    spread = f" +- {error:.2f} (standard error)" if error is not None else ""
    print(f"{config.env.game}: {scores.mean():.2f}{spread} over {episodes} episodes; {path / name}")
    if video is not None:
        score = _write_video(video, spec, config.agent.network, policy, params, seed)
        write_json(path / name, {**result, "video": {"file": video, "episode_return": score}})
        print(f"{video}: one more episode, {score:g}")
    return 0


def _on_this_machine(config: Config) -> Config:
    """Evaluation plays in this process: the training's cluster and devices do not matter.

    Neither does a schedule of hyper-parameters, whose run may be gone: such a learner's state is
    that of one whose hyper-parameters are fixed.
    """
    agent = config.agent
    if config.hyperparameters_from is not None:
        agent = agent.model_copy(update={"algorithm": "impala"})
    return config.model_copy(
        update={
            "hyperparameters_from": None,
            "agent": agent,
            "actors": config.actors.model_copy(update={"runtime": "in_process"}),
            "learner": config.learner.model_copy(update={"devices": 1}),
            "logging": config.logging.model_copy(update={"wandb": False}),
        }
    )


def _normalised(suite: str, game: str, score: float) -> dict[str, float]:
    if suite != "atari":
        return {}
    from actors.environments.atari_games import BY_NAME, human_normalised_score

    return {
        "human_normalised_score": human_normalised_score(game, score),
        "random_score": BY_NAME[game].random_score,
        "human_score": BY_NAME[game].human_score,
    }


def _check_video(video: str | None) -> None:
    if video is None:
        return
    path = Path(video)
    if path.suffix != ".mp4":
        raise ConfigError(f"--video {video}: must end in .mp4")
    if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise ConfigError(f"--video {video}: cannot write to {path.absolute().parent}")


def _write_video(video: str, spec, network: str, policy: str, params, seed: int) -> float:
    """Records one more episode; returns its score."""
    import imageio_ffmpeg

    from actors.environments.vector import EnvironmentRefused
    from actors.evaluation import film, record_episode

    recording = record_episode(spec, network, policy, params, seed=seed)
    writer = None
    try:
        for picture in film(spec, recording):
            if writer is None:
                height, width, _ = picture.shape
                writer = imageio_ffmpeg.write_frames(
                    video,
                    (width, height),
                    fps=_FRAMES_PER_SECOND[spec.suite],
                    macro_block_size=2,
                    output_params=["-vf", f"scale={2 * width}:{2 * height}:flags=neighbor"],
                )
                writer.send(None)
            writer.send(np.ascontiguousarray(picture))
    except EnvironmentRefused as error:
        raise ConfigError(f"--video: {error}") from error
    finally:
        if writer is not None:
            writer.close()
    return recording.episode.score
