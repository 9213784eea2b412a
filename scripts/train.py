"""`bmg train`: one run from a configuration to a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import itertools
import logging
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from configs import load as config_load
from configs.load import ConfigError
from configs.schema import Config
from learner.reading import last_metrics, read_summary
from learner.run_folder import (
    CHECKPOINTS,
    CONFIGURATION,
    LOG,
    configuration_of,
    keep_traceback,
    replace_text,
)
from scripts import jax_environment, ray_watch, signals
from scripts.check import (
    RunFailed,
    check,
    check_run_folder,
    environment_spec,
    hyperparameter_range,
    is_few_shot,
    keys_without_effect,
    learns,
    runs_on_device,
    schedule_frames,
)
from scripts.output import say

if TYPE_CHECKING:  # jax and ray are imported once the configuration is known to be good
    from actors.cluster import Gauges
    from agents.algorithm import State
    from learner.checkpoint import Checkpoints
    from learner.loop import LoopSettings, Progress
    from learner.run_folder import Status
    from learner.silence import Silence
    from scripts.build import Agent, Probe
    from scripts.runtime import StopSignals

_log = logging.getLogger(__name__)
_WANDB_SECONDS = 30  # until a run goes on without
AnyState = TypeVar("AnyState", bound=tuple)  # of the learner: a named tuple of arrays

# Of few-shot learning, what decides how hard a task is.
_TASK_KEYS = ("ways", "shots", "queries", "folder", "image_size", "colour", "skip_damaged")
_SCHEDULE = "hyperparameters_from"  # in the run folder: what hyperparameters_from has replayed

# A resumed run may differ in these: where it runs, what it writes, and for how long.
_MAY_CHANGE = (
    "name",
    "total_frames",
    "learner.schedule_frames",
    "checkpoint",
    "evaluation",
    "logging",
    "actors.count",
    "actors.ray_address",
    "actors.threads_per_actor",
    "actors.device",
    "actors.cpus_per_actor",
    "actors.memory_mb_per_actor",
    "actors.gpus_per_actor",
    "actors.max_bytes_in_flight",
    "actors.unroll_timeout_seconds",
    "actors.max_failures",
    "learner.devices",
    "learner.processes",
    "learner.process",
    "learner.coordinator",
    "learner.gpu_memory",
)


def train(source: str, overrides: list[str], run_dir: str | None, resume: bool) -> int:
    """Trains, and returns the exit status: 0, or 128 + the signal that ended the run.

    Raises:
        ConfigError: nothing was created or started.
        RunFailed: the run folder says `failed`.
    """
    config = config_load.load(source, overrides)
    if config.learner.process:  # of several; the first one sees to the run folder
        check(config)
        jax_environment.require_jax()
        return _run(config, Path(run_dir or "runs"), resume)
    if not run_dir:
        check(config)
        if resume:
            raise ConfigError("--resume needs --run-dir, the folder of the run to go on with")
        with _new_folder(config.name) as path:
            return _start(config, path, resume, overrides)
    path = Path(run_dir)
    check(with_own_schedule(config, path) if resume else config)
    check_run_folder(path, resume=resume)
    if resume:
        check_same_run(config, path)
        check_schedule(config, path)
    return _start(config, path, resume, overrides)


def _start(config: Config, path: Path, resume: bool, overrides: list[str]) -> int:
    without_effect = keys_without_effect(config, overrides)
    jax_environment.require_jax()
    if runs_on_device(config):
        from scripts.train_on_device import run

        return run(config, path, resume, without_effect)
    return _run(config, path, resume, without_effect)


def say_without_effect(keys: Iterable[str]) -> None:
    """Warns of keys that were given and act nowhere; once it is known that the run starts."""
    for key in keys:
        _log.warning("bmg: %s acts nowhere: this run learns no hyper-parameter", key)


def with_own_schedule(config: Config, path: Path) -> Config:
    """Reads the replayed hyper-parameters from the copy that the run made at its first start.

    The run that they come from may have gone on since, or be gone.
    """
    copy = path / _SCHEDULE
    if config.hyperparameters_from is None or not copy.is_dir():
        return config
    return config.model_copy(update={"hyperparameters_from": str(copy)})


def keep_schedule(config: Config, path: Path) -> None:
    """Copies the run whose hyper-parameters are replayed, as `with_own_schedule` reads it."""
    copy = path / _SCHEDULE
    if config.hyperparameters_from is not None and not copy.is_dir():
        partial = path / f"{_SCHEDULE}.partial"
        partial.mkdir(exist_ok=True)
        for name in ("config.yaml", "metrics.jsonl"):
            shutil.copyfile(Path(config.hyperparameters_from) / name, partial / name)
        partial.rename(copy)


@contextlib.contextmanager
def _new_folder(name: str) -> Iterator[Path]:
    """A folder under runs/ that no other process has; it goes again if nothing is put into it.

    Raises:
        ConfigError: it cannot be made.
    """
    stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    missing = [parent for parent in stem.parents if not parent.exists()]
    names = itertools.chain(
        [stem], (stem.with_name(f"{stem.name}-{n}") for n in itertools.count(1))
    )
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        path = next(path for path in names if _is_made(path))
    except OSError as error:
        raise ConfigError(f"{stem}: cannot be made ({error.strerror}); give a --run-dir") from None

    def remove() -> None:
        with contextlib.suppress(OSError):  # raised where it holds something
            for folder in [path, *missing]:
                folder.rmdir()

    with signals.undone(remove):
        yield path


def _is_made(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def check_same_run(config: Config, path: Path) -> None:
    """Refuses to go on with a run whose learning would change."""
    earlier = config_load.load(str(configuration_of(path)))
    old, new = (
        config_load.flat(earlier.model_dump(mode="json")),
        config_load.flat(config.model_dump(mode="json")),
    )
    for key, value in new.items():
        fixed = key not in _MAY_CHANGE and key.split(".")[0] not in _MAY_CHANGE
        if fixed and old[key] != value:
            raise ConfigError(
                f"{key}={value}: the run in {path} has {old[key]}; go on with that value, or "
                "start a new run in another --run-dir"
            )


def _run(config: Config, path: Path, resume: bool, without_effect: Sequence[str] = ()) -> int:
    from scripts import build, memory, runtime

    runtime.use_compilation_cache()
    runtime.limit_gpu_memory(config.learner.gpu_memory)
    _join(config)
    jax_environment.require_device()
    probe = build.probe_environment(config)
    memory.check_memory(config, probe)
    agent = build.build_agent(with_own_schedule(config, path), probe)
    say_without_effect(without_effect)
    follows = config.learner.process > 0
    checkpoints = None if follows else open_checkpoints(config, path, resume)
    stop = runtime.StopSignals()
    try:
        connect(config, probe)
    except RunFailed:
        if stop():
            return stop.exit_status()
        raise
    try:
        if stop() and config.learner.processes == 1:  # others would wait for this one
            return stop.exit_status()
        if checkpoints is None:
            progress = _follow(config, agent, stop)
        else:
            progress = _lead(config, agent, checkpoints, path, resume, stop)
    finally:
        disconnect(config)
    return 0 if progress.frames >= config.total_frames else stop.exit_status()


def _lead(
    config: Config,
    agent: Agent,
    checkpoints: Checkpoints,
    path: Path,
    resume: bool,
    stop: StopSignals,
) -> Progress:
    """The learner process that writes the run folder; nearly always the only one."""
    with hold(path, resume), ray_watch.watched(*_ray(config), path):
        earlier = config_load.load(str(configuration_of(path))) if resume else config
        start = starting_point(agent.initial_state, checkpoints, path, resume)
        state, progress = shared_start(*start)
        with contextlib.closing(Record(config, path, agent.probe.num_actions)) as record:
            keep_schedule(config, path)
            _say_if_schedule_moved(earlier, config, progress)
            _learn(config, agent, state, progress, checkpoints, record, stop)
        say(f"{record.status}: {progress.frames:,} frames, {progress.updates:,} updates; {path}")
    return progress


def check_schedule(config: Config, path: Path) -> None:
    """Refuses a learning rate that would have fallen to 0 before a resumed run goes on.

    Raises:
        ConfigError: one line.
    """
    horizon = config.learner.schedule_frames
    frames = read_summary(path)[0].get("frames", 0)
    if horizon is not None and horizon < frames:
        raise ConfigError(
            f"learner.schedule_frames={horizon}: the run in {path} has trained {frames} frames "
            "already; give no fewer, or leave the key out"
        )


def _say_if_schedule_moved(earlier: Config, config: Config, progress: Progress) -> None:
    """Warns where a resumed run's learning rate falls over other frames than before."""
    learner, old, new = config.learner, schedule_frames(earlier), schedule_frames(config)
    if learner.learning_rate_schedule != "linear" or old == new:
        return
    rates = [learner.learning_rate * max(0.0, 1.0 - progress.frames / n) for n in (old, new)]
    _log.warning(
        "the learning rate falls to 0 at %d frames now, no longer at %d: it goes on at %.3g "
        "instead of %.3g (learner.schedule_frames=%d keeps the old horizon)",
        *(new, old, rates[1], rates[0], old),
    )


@contextlib.contextmanager
def hold(path: Path, resume: bool) -> Iterator[None]:
    """Holds the run folder while training.

    Raises:
        ConfigError: another process does, or has left a run in it since `check_run_folder`.
    """
    from learner.run_folder import RunLocked, locked

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except RunLocked:
            raise ConfigError(
                f"--run-dir {path}: another process trains into it; wait for it, or end it first"
            ) from None
        check_run_folder(path, resume=resume)
        yield


def _join(config: Config) -> None:
    """Joins the other learner processes, where there are any.

    Raises:
        ConfigError: they do not come.
    """
    learner = config.learner
    if learner.coordinator is None or learner.processes == 1:
        return
    from learner import processes

    try:
        processes.join(learner.coordinator, learner.processes, learner.process)
    except RuntimeError as error:
        raise ConfigError(f"learner.coordinator={learner.coordinator}: {error}") from error


def _follow(config: Config, agent: Agent, stop: StopSignals) -> Progress:
    """A learner process that shares the batches of the first one, and leaves the writing to it.

    Raises:
        RunFailed: with the reason.
    """
    from agents.trajectory import SourceFailed
    from learner.loop import LearningDiverged, Progress
    from learner.loop import run as run_loop
    from scripts import build

    state, progress = shared_start(agent.initial_state, Progress())
    try:
        with contextlib.closing(build.build_source(config, agent.probe, progress.starts)) as source:
            run_loop(
                agent.learner,
                state,
                source,
                progress,
                loop_settings(config),
                composition=build.composition(config),
                replay=build.build_replay(config, progress.starts + 1),
                stop=stop,
                on_metrics=lambda metrics: None,
                on_checkpoint=lambda state, progress, experience: None,
            )
    except (SourceFailed, LearningDiverged) as error:
        raise RunFailed(f"learner process {config.learner.process}: {error}") from error
    return progress


def shared_start(state: AnyState, progress: Progress) -> tuple[AnyState, Progress]:
    """The first learner process's state and counters, in all of them."""
    import jax
    import numpy as np

    from learner.processes import from_first

    if jax.process_count() == 1:
        return state, progress
    counters = {k: v for k, v in vars(progress).items() if isinstance(v, int | float)}
    numbers = np.asarray([*counters.values()], np.float64)  # exact below 2**53
    state, sent = from_first((jax.device_get(state), numbers.view(np.uint8)))
    values = np.asarray(sent).view(np.float64)
    shared = {
        name: type(counter)(value)
        for (name, counter), value in zip(counters.items(), values, strict=True)
    }
    return state, dataclasses.replace(progress, **shared)


def open_checkpoints(config: Config, path: Path, resume: bool) -> Checkpoints:
    """Those of the run folder.

    Raises:
        ConfigError: it should be resumed, has learned, and there is none.
    """
    from learner.checkpoint import Checkpoints

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
    from learner import run_folder
    from learner.checkpoint import CheckpointError, open_snapshots
    from learner.loop import Progress

    if not resume or not checkpoints.versions():
        return initial, Progress()
    try:
        state, progress = checkpoints.restore(initial)
    except CheckpointError as error:
        raise RunFailed(f"{error}; run folder: {path}") from error
    run_folder.forget_after(path, progress.frames)
    open_snapshots(path).forget_after(progress.updates)
    return state, progress


def _learn(
    config: Config,
    agent: Agent,
    state: State,
    progress: Progress,
    checkpoints: Checkpoints,
    record: Record,
    stop: StopSignals,
) -> None:
    """Runs the loop to its end and writes the last checkpoint and the status."""
    from learner.checkpoint import Snapshot, open_snapshots
    from learner.loop import run as run_loop
    from learner.loop import save_experience
    from scripts import build

    snapshots = open_snapshots(record.path)

    def on_checkpoint(state: State, progress: Progress, experience: Any) -> None:
        checkpoints.save(state, progress, experience)
        record.note("running")

    def on_snapshot(state: State, progress: Progress) -> None:
        snapshots.save(Snapshot(state.inner.params), progress)

    with (
        record.noting_how_it_ends(config, progress),
        contextlib.closing(build.build_source(config, agent.probe, progress.starts)) as source,
    ):
        replay = build.build_replay(config, progress.starts + 1)
        experience = checkpoints.experience(progress) if progress.starts else None
        if experience is not None:
            build.restore_experience(experience, source, replay, state.inner.params)
        progress.starts += 1
        # So that a run killed early can be resumed, too.
        on_checkpoint(state, progress, save_experience(source, replay))
        state = run_loop(
            agent.learner,
            state,
            source,
            progress,
            loop_settings(config),
            composition=build.composition(config),
            replay=replay,
            stop=stop,
            on_metrics=record.metrics,
            on_checkpoint=on_checkpoint,
            on_snapshot=on_snapshot,
        )
        checkpoints.save(state, progress, save_experience(source, replay))


def loop_settings(config: Config) -> LoopSettings:
    """When to stop, log and checkpoint."""
    from learner.loop import LoopSettings

    return LoopSettings(
        config.total_frames,
        config.logging.every_seconds,
        config.checkpoint.every_seconds,
        config.evaluation.every_frames,
        config.learner.max_gradient_norm,
    )


class Record:
    """What a run shows and leaves behind: its folder, the display, Weights & Biases."""

    def __init__(self, config: Config, path: Path, num_actions: int) -> None:
        from learner.run_folder import RunFolder
        from scripts.display import make_display

        self.path = path
        self.status: Status = "running"
        # First: with it, a run that is killed before its first checkpoint can be started again.
        replace_text(path / CONFIGURATION, config_load.dump(config))
        self._facts = _facts(config, num_actions)
        self._folder = RunFolder(path, tensorboard=config.logging.tensorboard)
        self._log = _log_file(path)
        self._gauges = _gauges(config)
        self._wandb = _wandb(config, path)
        self._silence = _silence(config)
        self.note("running")
        title = f"{config.name}: {config.env.game} -> {path}"
        self._display = make_display(title, config.total_frames)

    def metrics(self, metrics: dict[str, Any]) -> None:
        """Takes the loop's metrics; adds the memory of all processes of this machine."""
        from scripts.runtime import memory_mb

        metrics = {**metrics, "memory/total_mb": memory_mb()}
        for warning in self._silence.warnings(metrics):
            _log.warning("frame %s: %s", f"{metrics['frames']:,}", warning)
        self._folder.log(metrics)
        self._display.show(metrics)
        if self._gauges is not None:
            self._gauges.set(metrics)
        if self._wandb is not None:
            try:
                self._wandb.log(metrics, step=metrics["frames"])
            except Exception as error:  # of a service that no training should depend on
                _log.warning("Weights & Biases stays behind from here on: %s", error)
                self._wandb = None

    @contextlib.contextmanager
    def noting_how_it_ends(self, config: Config, progress: Progress) -> Iterator[None]:
        """Around the learning and the last checkpoint: writes the status, whatever happens.

        Raises:
            RunFailed: for what a user can do something about.
        """
        from agents.trajectory import SourceFailed
        from learner.checkpoint import CheckpointError
        from learner.loop import LearningDiverged

        try:
            yield
            self.note("finished" if progress.frames >= config.total_frames else "interrupted")
        # OSError: the disk is full, say
        except (SourceFailed, LearningDiverged, CheckpointError, OSError) as error:
            reason = f"{error} (after update {progress.updates})"
            with contextlib.suppress(OSError):
                self.note("failed", reason=reason)
            if isinstance(error, SourceFailed):  # of code that is perhaps the user's own
                keep_traceback(self.path, error)
            raise RunFailed(f"{reason}; run folder: {self.path}") from error
        except KeyboardInterrupt:  # the second one: no checkpoint of this moment
            with contextlib.suppress(OSError):
                self.note("interrupted")
            raise
        except BaseException as error:  # a fault of ours: its traceback follows
            with contextlib.suppress(OSError):
                self.note("failed", reason=f"{type(error).__name__}: {error}")
            keep_traceback(self.path, error)
            raise

    def note(self, status: Status, **facts: str) -> None:
        """Writes the summary with a status."""
        self.status = status
        self._folder.write_summary(status, **self._facts, **facts)

    def close(self) -> None:
        """Closes the files and leaves the terminal as it was."""
        self._display.close()
        self._folder.close()
        logging.getLogger().removeHandler(self._log)
        self._log.close()
        if self._wandb is not None:
            with contextlib.suppress(Exception):
                self._wandb.finish()


def connect(config: Config, probe: Probe) -> None:
    """Joins or starts Ray where the configuration wants it.

    Raises:
        ConfigError: no cluster answers.
        RunFailed: Ray does not start.
    """
    if config.actors.runtime != "ray":
        return
    from actors import cluster
    from scripts.build import unroll_bytes
    from scripts.memory import store_bytes

    actors = config.actors
    wanted = actors.count * actors.unrolls_in_flight * unroll_bytes(config, probe)
    try:
        cluster.connect(
            actors.ray_address,
            object_store_bytes=store_bytes(config, wanted),
            cpus=math.ceil(actors.count * actors.cpus_per_actor),
        )
    except cluster.ClusterUnreachable as error:
        raise ConfigError(
            f"actors.ray_address={config.actors.ray_address}: {error}; start a cluster with "
            "`ray start --head`, or leave the key out to use this machine; a cluster that asks for "
            "a token needs that of its head, in ~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from error
    except cluster.StartFailed as error:
        raise RunFailed(str(error)) from error
    if actors.device == "gpu" and actors.ray_address is None and not cluster.gpus():
        cluster.disconnect()
        raise ConfigError("actors.device=gpu: Ray finds no GPU on this machine; use cpu")


def _ray(config: Config) -> tuple[int | None, str, str]:
    """What ends this process when it ends, for `ray_watch`."""
    if config.actors.runtime != "ray":
        return None, "", ""
    from actors import cluster

    return *cluster.raylet(), cluster.head() if config.actors.ray_address else ""


def disconnect(config: Config) -> None:
    """Leaves Ray; ends what `connect` started."""
    if config.actors.runtime == "ray":
        from actors import cluster

        cluster.disconnect()


def _facts(config: Config, num_actions: int) -> dict[str, Any]:
    """What stands beside every score: the protocol, and the versions that made it."""
    from actors.environments.suites import protocol

    if is_few_shot(config):
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


def _gauges(config: Config) -> Gauges | None:
    if config.actors.runtime != "ray" or runs_on_device(config):
        return None
    from actors.cluster import Gauges

    return Gauges(config.name)


def _silence(config: Config) -> Silence:
    from learner.silence import Silence

    names = config.meta.learned if learns(config) else []
    uppers = {name: hyperparameter_range(config, name)[1] for name in names}
    return Silence(uppers, config.meta.epsilon)


def _wandb(config: Config, path: Path) -> Any:
    if not config.logging.wandb:
        return None
    import wandb

    settings: dict[str, Any] = {
        "project": "bmg",
        "name": config.name,
        "dir": str(path),
        "config": config.model_dump(mode="json"),
    }
    waiting = wandb.Settings(init_timeout=_WANDB_SECONDS)
    try:
        return wandb.init(**settings, settings=waiting)
    except Exception as error:  # no key, no network, whatever else that service may raise
        reason = " ".join(str(error).split()) or type(error).__name__
        _log.warning("no Weights & Biases (%s); `wandb sync %s/wandb` later", reason, path)
        return wandb.init(**settings, mode="offline")
