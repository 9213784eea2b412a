"""Films of an agent that plays."""

from pathlib import Path

from actors.environments.vector import EnvironmentRefused, EnvironmentSpec
from actors.evaluation import film, record_episode
from agents.networks import Params
from configs.load import ConfigError
from scripts.check import RunFailed
from scripts.panel import beside

_FRAMES_PER_SECOND = {"atari": 60, "catch": 5, "gymnasium": 30}


def write_video(
    video: str,
    spec: EnvironmentSpec,
    network: str,
    policy: str,
    params: Params,
    seed: int,
    learned: dict[str, float],
) -> float:
    """Films an episode; returns its score.

    Args:
        video: the file.
        spec: of the environment.
        network: its name.
        policy: sample, greedy or random.
        params: of the agent.
        seed: of environment and actions.
        learned: hyper-parameters to show, by name.

    Raises:
        ConfigError: the environment has no pictures.
        RunFailed: the file cannot be written.
    """
    import imageio_ffmpeg

    recording = record_episode(spec, network, policy, params, seed=seed)
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
            shown = beside(picture, spec.game, facts)
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
