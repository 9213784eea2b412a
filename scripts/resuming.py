"""Going on with a run: what may have changed since, and the schedule that it replays."""

import logging
import shutil
from pathlib import Path

from configs import load as config_load
from configs.load import ConfigError
from configs.schema import Config, LearnerConfig, operational_keys
from learner.run_folder import configuration_of, trained_frames

_log = logging.getLogger(__name__)
_SCHEDULE = "hyperparameters_from"  # in the run folder: what hyperparameters_from has replayed

# A resumed run may differ in these: where it runs, what it writes, and for how long.
MAY_CHANGE = ("total_frames", "learner.schedule_frames", *operational_keys())


def check_same_run(config: Config, path: Path) -> None:
    """Refuses to go on with a run whose learning would change."""
    earlier = config_load.load(str(configuration_of(path)))
    old, new = (
        config_load.flat(earlier.model_dump(mode="json")),
        config_load.flat(config.model_dump(mode="json")),
    )
    for key, value in new.items():
        fixed = key not in MAY_CHANGE and key.split(".")[0] not in MAY_CHANGE
        if fixed and old[key] != value:
            raise ConfigError(
                f"{key}={value}: the run in {path} has {old[key]}; go on with that value, or "
                "start a new run in another --run-dir"
            )


def check_frames(total: int, horizon: int | None, path: Path) -> None:
    """Refuses a run that would end, or learn at a rate of 0, before it goes on.

    Args:
        total: `total_frames`; what the run had itself is left as it is, though its last batch has
            gone beyond.
        horizon: `learner.schedule_frames`.
        path: of its folder.

    Raises:
        ConfigError: one line.
    """
    frames = trained_frames(path)
    earlier = config_load.load(str(configuration_of(path))).total_frames
    ends = {"learner.schedule_frames": horizon, "total_frames": total if total < earlier else None}
    for key, end in ends.items():
        if end is not None and end < frames:
            raise ConfigError(
                f"{key}={end}: the run in {path} has trained {frames} frames already; give no "
                "fewer, or leave the key out"
            )


def say_if_schedule_moved(learner: LearnerConfig, old: int, new: int, frames: int) -> None:
    """Warns where a resumed run's learning rate falls over other frames than before.

    Args:
        learner: of the run.
        old: frames over which it fell.
        new: over which it falls.
        frames: that are trained.
    """
    if learner.learning_rate_schedule != "linear" or old == new:
        return
    rates = [learner.learning_rate * max(0.0, 1.0 - frames / n) for n in (old, new)]
    _log.warning(
        "the learning rate falls to 0 at %d frames now, no longer at %d: it goes on at %.3g "
        "instead of %.3g (learner.schedule_frames=%d keeps the old horizon)",
        *(new, old, rates[1], rates[0], old),
    )


def with_own_schedule(config: Config, path: Path) -> Config:
    """Reads the replayed hyper-parameters from the copy that the run made at its first start.

    The run that they come from may have gone on since, or be gone.
    """
    copy = path / _SCHEDULE
    if config.hyperparameters_from is None or not copy.is_dir():
        return config
    return config.model_copy(update={"hyperparameters_from": str(copy)})


def keep_schedule(replayed: str | None, path: Path) -> None:
    """Copies the run whose hyper-parameters are replayed, as `with_own_schedule` reads it."""
    copy = path / _SCHEDULE
    if replayed is not None and not copy.is_dir():
        partial = path / f"{_SCHEDULE}.partial"
        partial.mkdir(exist_ok=True)
        for name in ("config.yaml", "metrics.jsonl"):
            shutil.copyfile(Path(replayed) / name, partial / name)
        partial.rename(copy)
