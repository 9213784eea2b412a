"""What a run shows and leaves behind, wherever it plays: its folder, its checkpoints, a display."""

import contextlib
import importlib.metadata
import logging
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from actors.environments.suites import protocol
from agents.trajectory import SourceFailed
from configs import load as config_load
from configs.load import ConfigError
from configs.schema import Config, LoggingConfig
from learner import run_folder
from learner.checkpoint import CheckpointError, Checkpoints, open_snapshots
from learner.loop import LearningDiverged, LoopSettings, Progress
from learner.on_device import CurvePoint
from learner.reading import last_metrics, read_summary
from learner.run_folder import (
    CHECKPOINTS,
    CONFIGURATION,
    LOG,
    RunFolder,
    Status,
    keep_traceback,
    replace_text,
)
from learner.silence import Silence
from scripts import plugins, signals
from scripts.check import RunFailed, environment_spec, out_of_memory
from scripts.display import Display
from scripts.output import say
from scripts.profiling import Profile
from scripts.provenance import now, provenance
from scripts.runtime import memory_mb

_log = logging.getLogger(__name__)
# Of few-shot learning, what decides how hard a task is.
_TASK_KEYS = ("ways", "shots", "queries", "folder", "image_size", "colour", "skip_damaged")
_OF_A_START = ("started", "command", "commit", "dirty", "host")
_MOST_LOST_LINES = 10
_MOST_STARTS = 99  # earlier ones
_WANDB_SECONDS = 30  # until a run goes on without
AnyState = TypeVar("AnyState", bound=tuple)  # of the learner: a named tuple of arrays


def open_checkpoints(config: Config, path: Path, resume: bool) -> Checkpoints:
    """Those of the run folder.

    Raises:
        ConfigError: it should be resumed, has learned, and there is none.
    """
    # orbax reports every file at INFO, and at ERROR with a traceback what it raises as well.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    checkpoints = Checkpoints(path / CHECKPOINTS, config.checkpoint.keep, config_load.dump(config))
    if resume and not checkpoints.versions():
        if last_metrics(path):  # of checkpoints that somebody has removed
            raise ConfigError(
                f"--resume: {path} holds no checkpoint; start again in another --run-dir"
            )
        say(f"{path} holds no checkpoint yet: the run starts from nothing")
    return checkpoints


def starting_point(
    initial: AnyState, checkpoints: Checkpoints, path: Path, resume: bool
) -> tuple[AnyState, Progress]:
    """The first state, or that of the newest good checkpoint."""
    if not resume or not checkpoints.versions():
        return initial, Progress()
    try:
        state, progress = checkpoints.restore(initial)
    except CheckpointError as error:
        raise RunFailed(f"{error}; run folder: {path}") from error
    run_folder.forget_after(path, progress.frames)
    open_snapshots(path).forget_after(progress.updates)
    return state, progress


def loop_settings(config: Config) -> LoopSettings:
    """When to stop, log and checkpoint."""
    return LoopSettings(
        config.total_frames,
        config.logging.every_seconds,
        config.checkpoint.every_seconds,
        config.evaluation.every_frames,
    )


class Record:
    """What a run shows and leaves behind: its folder, the display, Weights & Biases."""

    def __init__(
        self,
        config: Config,
        path: Path,
        num_actions: int,
        display: Display,
        profile: bool = False,
    ) -> None:
        """Begins the folder.

        Args:
            config: of the run.
            path: of its folder.
            num_actions: of its environment.
            display: which is closed with the record.
            profile: whether to trace a few steps.
        """
        self.path = path
        self.display = display
        self.status: Status = "running"
        # First: with it, a run that is killed before its first checkpoint can be started again.
        replace_text(path / CONFIGURATION, config_load.dump(config))
        self._facts, self._total_frames = _facts(config, num_actions), config.total_frames
        self._provenance = _with_earlier_starts(provenance(), path)
        self._folder = RunFolder(path, tensorboard=config.logging.tensorboard)
        self._folder.note("configuration", config_load.dump(config))
        self._log = _log_file(path)
        self._gauges = _gauges(config.name) if config.actors.runtime == "ray" else None
        self._wandb = None
        if config.logging.wandb:
            values = config.model_dump(mode="json")
            self._wandb = _wandb(config.name, config.logging, values, path)
        sink = config.logging.sink
        self._lost_lines = 0  # to the sink, in a row
        self._sink = None if sink is None else plugins.sink(sink, str(path / CONFIGURATION))
        names = config.meta.learned if config.learns else []
        uppers = {name: config.hyperparameter_range(name)[1] for name in names}
        self._silence = Silence(uppers, config.meta.epsilon, config.all_seeds)
        self._by_points = config.actors.on_device
        self._profile = Profile(path) if profile else None
        self.note("running")

    def before_step(self, progress: Progress) -> None:
        """Takes the loop's counters before each step."""
        if self._profile is not None:
            self._profile.before_step(progress)

    def metrics(self, metrics: dict[str, Any]) -> None:
        """Takes the loop's metrics; adds the memory of all processes of this machine."""
        metrics = {**metrics, "memory/total_mb": memory_mb()}
        if not self._by_points:
            self._warn(metrics["frames"], self._silence.warnings(metrics))
        self._folder.log(metrics)
        self.display.show(metrics)
        if self._gauges is not None:
            self._gauges.set(metrics)
        if self._wandb is not None:
            try:
                self._wandb.log(metrics, step=metrics["frames"])
            except Exception as error:  # of a service that no training should depend on
                _log.warning("Weights & Biases stays behind from here on: %s", error)
                self._wandb = None
        if self._sink is not None:
            try:
                self._sink(dict(metrics), self.path)
            except Exception as error:  # as above
                self._lost_lines += 1
                raised = f"{type(error).__name__}: {error}"
                if self._lost_lines == 1:
                    _log.warning("a line is lost to the sink, which raised %s", raised)
                elif self._lost_lines == _MOST_LOST_LINES:  # each may have cost a timeout
                    _log.warning(
                        "the sink gets no more lines: again and again it raised %s", raised
                    )
                    self._sink = None
            else:
                self._lost_lines = 0

    def seeds(self, point: CurvePoint, updates: int) -> None:
        """Takes what is added to the learning curves of several seeds, after so many updates."""
        values = {name.removeprefix("meta/"): v for name, v in point.hyperparameters.items()}
        self._warn(point.frames, self._silence.of_seeds(updates, point.gradients, values))

    def _warn(self, frames: int, warnings: list[str]) -> None:
        for warning in warnings:
            _log.warning("frame %s: %s", f"{frames:,}", warning)

    @contextlib.contextmanager
    def noting_how_it_ends(self, progress: Progress) -> Iterator[None]:
        """Around the learning and the last checkpoint: writes the status, whatever happens.

        Raises:
            RunFailed: for what a user can do something about.
        """
        try:
            yield
            self.note("finished" if progress.frames >= self._total_frames else "interrupted")
        except BaseException as error:
            interrupted, number = isinstance(error, KeyboardInterrupt), signals.interrupted_by()
            if interrupted or number is not None:  # for the second time: no checkpoint
                with signals.without_ctrl_c(), contextlib.suppress(OSError):
                    self.note("interrupted")
                if interrupted:
                    raise
                raise KeyboardInterrupt(number) from None  # of which a library has made another
            foreseen = _reason(error)
            reason = foreseen or f"{type(error).__name__}: {error}"
            if foreseen and not isinstance(error, LearningDiverged):  # which says it
                reason += f" (after update {progress.updates})"
            with contextlib.suppress(OSError):
                self.note("failed", reason=reason)
            # A fault of ours, which follows on the terminal too, or of the user's own code.
            if not foreseen or isinstance(error, SourceFailed):
                keep_traceback(self.path, error)
            if not foreseen:
                raise
            raise RunFailed(f"{reason}; run folder: {self.path}") from error

    def note(self, status: Status, **facts: str) -> None:
        """Writes the summary with a status."""
        self.status = status
        ended = now() if status != "running" else None
        origin = {"provenance": {**self._provenance, "ended": ended}}
        self._folder.write_summary(status, **self._facts, **origin, **facts)

    def close(self) -> None:
        """Closes the files and leaves the terminal as it was."""
        if self._profile is not None:
            self._profile.close()
        self.display.close()
        self._folder.close()
        logging.getLogger().removeHandler(self._log)
        self._log.close()
        if self._wandb is not None:
            with contextlib.suppress(Exception):
                self._wandb.finish()


def _with_earlier_starts(newest: dict[str, Any], path: Path) -> dict[str, Any]:
    """Facts of this start of a run, and in `starts` how it was started each time."""
    earlier = read_summary(path)[0].get("provenance")
    known: list[Any] = []
    if isinstance(earlier, dict):  # of a version that kept one start, that one
        starts = earlier.get("starts", [{key: earlier.get(key) for key in _OF_A_START}])
        known = starts[-_MOST_STARTS:] if isinstance(starts, list) else []
    return {**newest, "starts": [*known, {key: newest[key] for key in _OF_A_START}]}


def _reason(error: BaseException) -> str | None:
    """Why a run has ended, where a user can do something about it."""
    if out_of_memory(error):
        said = " ".join(str(error).split()).rstrip(".") or "no memory is left"
        return (
            f"{said}: make learner.batch_size, learner.unroll_length, meta.inner_steps or the "
            "network smaller"
        )
    # OSError: the disk is full, say
    foreseen = isinstance(error, (SourceFailed, LearningDiverged, CheckpointError, OSError))
    return str(error) if foreseen else None


def _facts(config: Config, num_actions: int) -> dict[str, Any]:
    """What stands beside every score: the protocol, and the versions that made it."""
    if config.env.is_few_shot:
        played = {
            "suite": config.env.suite,
            "game": config.env.game,
            **config.few_shot.model_dump(include={*_TASK_KEYS}),
        }
    else:
        spec = environment_spec(config.env)
        played = {**protocol(spec, config.env.reward_clip), "actions": num_actions}
    packages = ("bmg", "jax", "optax", "dm-haiku", "ray", "numpy")
    return {
        "name": config.name,
        "algorithm": config.agent.algorithm,
        "seed": config.seed,
        "seeds": config.seeds,
        "total_frames": config.total_frames,
        "protocol": played,
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


class _LogFile(logging.FileHandler):
    """A warning that cannot be written is on the terminal all the same, without a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        del record

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def _log_file(path: Path) -> logging.Handler:
    """What is said while training, with the time, for the morning after a bad night."""
    handler = _LogFile(path / LOG, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler


def _gauges(name: str) -> Any:
    from actors.cluster import Gauges  # only here: it imports ray

    return Gauges(name)


def _wandb(name: str, logging: LoggingConfig, values: dict[str, Any], path: Path) -> Any:
    import wandb

    settings: dict[str, Any] = {
        "id": _wandb_id(path),
        "resume": "allow",
        "project": logging.wandb_project,
        "group": logging.wandb_group,
        "tags": logging.wandb_tags,
        "name": name,
        "dir": str(path),
        "config": values,
    }
    waiting = wandb.Settings(init_timeout=_WANDB_SECONDS)
    try:
        return wandb.init(**settings, settings=waiting)
    except Exception as error:  # no key, no network, whatever else that service may raise
        reason = " ".join(str(error).split()) or type(error).__name__
        _log.warning("no Weights & Biases (%s); `wandb sync %s/wandb` later", reason, path)
        return wandb.init(**settings, mode="offline")


def _wandb_id(path: Path) -> str:
    """The run's own there, by which a resumed one goes on."""
    file = path / "wandb" / "id.txt"
    with contextlib.suppress(OSError):
        if re.fullmatch("[0-9a-f]{16}", known := file.read_text().strip()):
            return known
    file.parent.mkdir(exist_ok=True)
    new = secrets.token_hex(8)
    replace_text(file, f"{new}\n")
    return new
