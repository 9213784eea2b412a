"""Games with fixed parameters, and what came of them beside the run."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from actors.environments.atari_games import BY_NAME, human_normalised_score
from actors.environments.suites import protocol
from actors.environments.vector import EnvironmentFailed, EnvironmentSpec
from actors.evaluation import Played, play_episodes
from agents.hyperparameters import HYPERPARAMETERS
from agents.networks import Params
from agents.trajectory import Episode
from configs.schema import Config, EnvironmentConfig, EvaluationConfig
from learner import reading
from learner.loop import Progress
from learner.run_folder import keep_traceback, write_json
from scripts.check import RunFailed, environment_spec
from scripts.evaluation_display import EvaluationDisplay
from scripts.output import say
from scripts.trained import Trained
from scripts.video import write_video

_ENVIRONMENTS = 10  # side by side


class Game:
    """Plays a run's agents, and writes what came of each beside it."""

    def __init__(self, path: Path, config: Config, policy: str, seed: int) -> None:
        self._path, self._config = path, config
        self._policy, self._seed = policy, seed
        self._spec = evaluation_spec(config.env, config.evaluation)

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
        trained: Trained,
        episodes: int,
        *,
        at: bool,
        video: str | None = None,
    ) -> None:
        """Plays, prints and writes.

        Args:
            trained: the agents.
            episodes: of each of them.
            at: whether it is a snapshot.
            video: where to film one more episode, of the first of them.

        Raises:
            RunFailed: the environment raised.
        """
        config, agents, progress = self._config, trained.agents, trained.progress
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
                "actions": trained.probe.num_actions,
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
            with _saying_what_failed(config.env.game, self._path):
                score = write_video(
                    video,
                    self._spec,
                    config.agent.network,
                    self._policy,
                    agents[0],
                    self._seed,
                    _learned(self._path),
                )
            write_json(file, {**result, "video": {"file": video, "episode_return": score}})
            say(f"{video}: one more episode, {score:g}")

    def _played(self, title: str, params: Params, episodes: int) -> Played:
        with (
            _saying_what_failed(self._config.env.game, self._path),
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


def evaluation_spec(env: EnvironmentConfig, evaluation: EvaluationConfig) -> EnvironmentSpec:
    """The environment as `evaluation.protocol` wants it."""
    changes = dict(_PROTOCOLS[evaluation.protocol])
    if evaluation.max_episode_frames is not None:
        changes["max_episode_frames"] = evaluation.max_episode_frames
    return environment_spec(env)._replace(**changes)


@contextlib.contextmanager
def _saying_what_failed(game: str, path: Path) -> Iterator[None]:
    """Around playing.

    Raises:
        RunFailed: the environment raised; log.txt says where.
    """
    try:
        yield
    except EnvironmentFailed as error:
        keep_traceback(path, error)
        raise RunFailed(f"{game}: {error}; run folder: {path}") from error


def _learned(path: Path) -> dict[str, float]:
    """The acting head's hyper-parameters at the end of a run, of those that it learns."""
    last = reading.last_metrics(path)
    known = {name: last.get(f"meta/{name}") for name in HYPERPARAMETERS}
    return {name: value for name, value in known.items() if value is not None}


def _normalised(suite: str, game: str, score: float) -> dict[str, float]:
    if suite != "atari":
        return {}
    return {
        "human_normalised_score": human_normalised_score(game, score),
        "random_score": BY_NAME[game].random_score,
        "human_score": BY_NAME[game].human_score,
    }
