"""`bmg evaluate`: scores of a run's newest good checkpoint, or of its snapshots."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.environments.vector import EnvironmentFailed, EnvironmentSpec
from agents.hyperparameters import HYPERPARAMETERS
from configs.load import ConfigError, load
from configs.schema import Config
from learner import reading
from learner.run_folder import keep_traceback, write_json
from scripts import jax_environment
from scripts.check import RunFailed, check, environment_spec, is_few_shot, runs_on_device
from scripts.check_few_shot import check_evaluation
from scripts.evaluation_display import EvaluationDisplay
from scripts.output import say
from scripts.train import check_same_run

if TYPE_CHECKING:  # jax is imported once the arguments are known to be good
    from actors.evaluation import Played
    from agents.networks import Params
    from agents.trajectory import Episode
    from learner.checkpoint import Checkpoints
    from learner.loop import Progress

_ENVIRONMENTS = 10  # side by side
_FRAMES_PER_SECOND = {"atari": 60, "catch": 5, "gymnasium": 30}


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
    if not os.path.isfile(path / "config.yaml"):
        raise ConfigError(f"{run_dir} holds no run (no config.yaml); give a run folder")
    config = load(str(path / "config.yaml"))
    check_same_run(config, path)
    if is_few_shot(config):
        check_evaluation(policy, protocol, video, snapshots)
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
    if is_few_shot(config):
        from scripts.evaluate_few_shot import evaluate as evaluate_tasks

        return evaluate_tasks(path, config, kept, seed, episodes)
    if runs_on_device(config):
        return _evaluate_seeds(path, config, policy, seed, kept, episodes or 10, video)
    probe = build.probe_environment(config)
    game = _Game(path, config, policy, seed, probe.num_actions)
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
    if not runs_on_device(config):
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

    environment = on_device.build_environment(config.env)
    algorithm = on_device.build_algorithm(config, environment)
    learner = on_device.build_seeds_learner(config, algorithm)
    game = _Game(path, config, policy, seed, environment.num_actions)
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


class _Game:
    """Plays a run's agents, and writes what came of each beside it."""

    def __init__(
        self, path: Path, config: Config, policy: str, seed: int, num_actions: int
    ) -> None:
        self._path, self._config = path, config
        self._policy, self._seed, self._num_actions = policy, seed, num_actions
        self._spec = evaluation_spec(config)

    def file(self, progress: Progress, *, at: bool) -> Path:
        """Where an evaluation goes; that of the newest checkpoint has no frame count in its name.

        So has a sampled policy by the training's protocol: `evaluation.json`.
        """
        protocol = self._config.evaluation.protocol
        parts = [
            "evaluation",
            *([self._policy] if self._policy != "sample" else []),
            *([protocol] if protocol != "training" else []),
            *([f"at-{progress.frames}"] if at else []),
        ]
        return self._path / f"{'-'.join(parts)}.json"

    def play(
        self,
        agents: Sequence[Params],
        progress: Progress,
        episodes: int,
        *,
        at: bool,
        video: str | None = None,
    ) -> None:
        """Plays, prints and writes.

        Args:
            agents: one, or that of each seed of a program.
            progress: of their training.
            episodes: of each of them.
            at: whether it is a snapshot.
            video: where to film one more episode, of the first of them.

        Raises:
            RunFailed: the environment raised.
        """
        from actors.environments.suites import protocol

        config = self._config
        title = f"{config.env.game}, {progress.frames:,} frames"
        played: list[Episode] = []
        cut = 0
        for index, params in enumerate(agents):
            of_seed = f", seed {config.seed + index}" if len(agents) > 1 else ""
            of_agent = self._played(f"{title}{of_seed}", params, episodes)
            played, cut = played + of_agent.episodes, cut + of_agent.cut
        scores = np.asarray([episode.score for episode in played])
        # Of several seeds the question is how another seed would play.
        of_seeds = scores.reshape(len(agents), -1).mean(axis=1)
        sample = of_seeds if len(agents) > 1 else scores
        error = float(sample.std(ddof=1) / np.sqrt(len(sample))) if len(sample) > 1 else None
        seeds = {"seeds": len(agents), "returns_of_seeds": of_seeds.tolist()}
        result: dict[str, Any] = {
            "mean_return": float(scores.mean()),
            "standard_error": error,
            "episodes": len(played),
            **(seeds if len(agents) > 1 else {}),
            "cut": cut,
            "policy": self._policy,
            "evaluation_protocol": config.evaluation.protocol,
            "seed": self._seed,
            "frames": progress.frames,
            "snapshot": at,
            "learner_updates": progress.updates,
            **_normalised(config.env.suite, config.env.game, float(scores.mean())),
            "protocol": {
                **protocol(self._spec, config.env.reward_clip),
                "max_episode_frames": self._spec.max_episode_frames,
                "actions": self._num_actions,
            },
            "returns": scores.tolist(),
            "lengths": [episode.frames for episode in played],
        }
        file = self.file(progress, at=at)
        write_json(file, result)
        spread = f" +- {error:.2f} (standard error)" if error is not None else ""
        limited = f", {cut} of them cut by a time limit" if cut else ""
        over = f"{len(agents)} seeds, " if len(agents) > 1 else ""
        over += f"{len(played)} episodes"
        say(f"{title}: {scores.mean():.2f}{spread} over {over}{limited}; {file}")
        if video is not None:
            with _saying_what_failed(config, self._path):
                score = _write_video(
                    video, config, self._policy, agents[0], self._seed, _learned(self._path)
                )
            write_json(file, {**result, "video": {"file": video, "episode_return": score}})
            say(f"{video}: one more episode, {score:g}")

    def _played(self, title: str, params: Params, episodes: int) -> Played:
        from actors.evaluation import play_episodes

        with (
            _saying_what_failed(self._config, self._path),
            contextlib.closing(EvaluationDisplay(title, episodes)) as display,
        ):
            return play_episodes(
                self._spec,
                self._config.agent.network,
                self._policy,
                params,
                episodes=episodes,
                seed=self._seed,
                num_envs=_ENVIRONMENTS,
                threads=os.cpu_count() or 1,
                on_step=display.show,
            )


_PROTOCOLS: dict[str, dict[str, Any]] = {
    "training": {},
    "noops": {"noop_max": 30, "sticky_actions": 0.0},
    "sticky": {"noop_max": 0, "sticky_actions": 0.25},
}


def evaluation_spec(config: Config) -> EnvironmentSpec:
    """The environment as `evaluation.protocol` wants it."""
    changes = dict(_PROTOCOLS[config.evaluation.protocol])
    if config.evaluation.max_episode_frames is not None:
        changes["max_episode_frames"] = config.evaluation.max_episode_frames
    return environment_spec(config.env)._replace(**changes)


@contextlib.contextmanager
def _saying_what_failed(config: Config, path: Path) -> Iterator[None]:
    """Around playing.

    Raises:
        RunFailed: the environment raised; log.txt says where.
    """
    try:
        yield
    except EnvironmentFailed as error:
        keep_traceback(path, error)
        raise RunFailed(f"{config.env.game}: {error}; run folder: {path}") from error


def _learned(path: Path) -> dict[str, float]:
    """The acting head's hyper-parameters at the end of a run, of those that it learns."""
    last = reading.last_metrics(path)
    known = {name: last.get(f"meta/{name}") for name in HYPERPARAMETERS}
    return {name: value for name, value in known.items() if value is not None}


def _on_this_machine(config: Config) -> Config:
    """Evaluation plays in this process: the training's cluster and devices do not matter.

    Neither does a schedule of hyper-parameters, whose run may be gone: such a learner's state is
    that of one whose hyper-parameters are fixed.
    """
    agent = config.agent
    runtime = "on_device" if runs_on_device(config) else "in_process"
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


def _write_video(
    video: str, config: Config, policy: str, params: Params, seed: int, learned: dict[str, float]
) -> float:
    """Films one more episode; returns its score.

    Raises:
        ConfigError: the environment has no pictures.
        RunFailed: the file cannot be written.
    """
    import imageio_ffmpeg

    from actors.environments.vector import EnvironmentRefused
    from actors.evaluation import film, record_episode
    from scripts.panel import beside

    spec = evaluation_spec(config)
    recording = record_episode(spec, config.agent.network, policy, params, seed=seed)
    writer = None
    try:
        for frame, picture in enumerate(film(spec, recording)):
            step = min(frame // spec.frame_skip, len(recording.values) - 1)
            facts = {
                "frame": f"{frame + 1:,}",
                "score": f"{recording.scores[step]:g}",
                "value estimate": f"{recording.values[step]:.3f}",
                **{name.replace("_", " "): f"{value:.4g}" for name, value in learned.items()},
            }
            shown = beside(picture, config.env.game, facts)
            if writer is None:
                height, width, _ = shown.shape
                writer = imageio_ffmpeg.write_frames(
                    video,
                    (width, height),
                    fps=_FRAMES_PER_SECOND[spec.suite],
                    macro_block_size=2,
                    ffmpeg_log_level="quiet",
                )
                writer.send(None)
            writer.send(shown)
        if writer is not None:
            writer.close()
        _require_film(video)
    except EnvironmentRefused as error:
        raise ConfigError(f"--video: {error}") from error
    except OSError as error:
        Path(video).unlink(missing_ok=True)
        raise RunFailed(
            f"--video {video}: the encoder could not write it all; is there room on the disk?"
        ) from error
    finally:
        if writer is not None:
            writer.close()
    return recording.episode.score


def _require_film(video: str) -> None:
    """Makes sure that a film can be played: its encoder says nothing of how it ended.

    Raises:
        OSError: it is cut off.
    """
    import imageio_ffmpeg

    try:
        imageio_ffmpeg.count_frames_and_secs(video)
    except RuntimeError as error:
        raise OSError(f"{video} is cut off") from error
