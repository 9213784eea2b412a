"""`bmg sweep`: many trainings from one file, on a Ray cluster."""

import contextlib
import math
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from actors.environments.atari_games import BY_NAME
from configs import load as config_load
from configs.load import ConfigError, ConfigErrors
from configs.schema import Config
from configs.sweep import Sweep, Trial, dump_sweep, load_sweep
from scripts.check import RunFailed, all_faults, faults_of_game

_MEASURE_LINES = 8  # of metrics, after which the speed of a run is known well enough
_MEASURE_SECONDS = 150.0
_STORE_BYTES = 256 * 2**20


class Planned(NamedTuple):
    """A trial and what it will train."""

    trial: Trial
    config: Config


def sweep(
    source: str, overrides: list[str], results: str | None, resume: bool, dry_run: bool
) -> int:
    """Runs what is not finished yet, and returns the exit status.

    Raises:
        ConfigErrors: with all faults of the sweep; nothing was created or started.
        RunFailed: some trials failed; the others are finished.
    """
    plan = load_sweep(source, overrides, tuple(BY_NAME))
    planned = _configurations(plan)
    if dry_run:
        _dry_run(plan, planned)
        return 0
    folder = Path(results) if results else Path("results") / plan.name
    _check_folder(folder, resume)
    if resume:
        _check_same_sweep(planned, folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(dump_sweep(plan))
    return _run(plan, planned, folder.absolute())


def _configurations(plan: Sweep) -> list[Planned]:
    """Loads and checks those of all trials.

    Raises:
        ConfigErrors: with every fault once, and in how many trials it is.
    """
    faults: dict[str, int] = {}
    planned: list[Planned] = []
    for trial in plan.trials:
        try:
            config, found = config_load.load_partly(trial.source, trial.overrides)
            planned.append(Planned(trial, config))
            if not found:
                found = all_faults(config)
            elif not any(fault.startswith("env.suite=") for fault in found):
                found += faults_of_game(config)  # other checks would blame defaults on the user
        except ConfigError as error:
            found = [str(error)]
        for fault in found:
            faults[fault] = faults.get(fault, 0) + 1
    if faults:
        count = len(plan.trials)
        lines = [f"{fault} (in {n} of {count} trials)" for fault, n in faults.items()]
        raise ConfigErrors(lines)
    return planned


def _check_folder(folder: Path, resume: bool) -> None:
    try:
        if resume and not (folder / "sweep.yaml").is_file():
            raise ConfigError(f"--resume: {folder} holds no sweep; leave --resume out to start one")
        if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(
                f"--results {folder}: it exists already; --resume goes on with it, or give another "
                "folder"
            )
        existing = next(p for p in [folder, *folder.absolute().parents] if p.exists())
        os.rmdir(tempfile.mkdtemp(dir=existing))
    except OSError as error:
        raise ConfigError(
            f"--results {folder}: cannot be written ({error.strerror}); give another folder"
        ) from None


def _check_same_sweep(planned: list[Planned], folder: Path) -> None:
    """Refuses to go on with trials whose learning would change, before any starts."""
    from scripts.train import check_same_run

    faults: list[str] = []
    for trial, config in planned:
        if (folder / trial.name / "config.yaml").is_file():
            try:
                check_same_run(config, folder / trial.name)
            except ConfigError as error:
                faults.append(str(error))
    if faults:
        raise ConfigErrors(faults)


def _run(plan: Sweep, planned: list[Planned], folder: Path) -> int:
    from actors import cluster
    from scripts import trials
    from scripts.sweep_display import SweepDisplay

    tasks = [
        trials.Task(
            trial.name,
            _absolute(trial.source),
            trial.overrides,
            folder / trial.name,
            config.total_frames,
            config.evaluation.every_frames > 0,
            Path.cwd(),
        )
        for trial, config in planned
    ]
    todo = [task for task in tasks if not trials.is_finished(task)]
    failed: dict[str, str] = {}
    interrupted = None
    with contextlib.closing(SweepDisplay(plan.name, folder, tasks)) as display:
        if todo:
            with _ray(plan.config.ray_address), _interrupted_by_sigterm():
                each = _each(plan, planned, cluster.largest_node_cpus())
                try:
                    failed = trials.run_tasks(todo, each, plan.config.retries, display.show)
                except KeyboardInterrupt as stop:
                    interrupted = stop
        display.end(failed)
    if interrupted is not None:
        print(f"interrupted; `bmg sweep ... --results {folder} --resume` goes on")
        return 143 if interrupted.args else 130
    unfinished = [task.name for task in tasks if not trials.is_finished(task)]
    if unfinished:
        raise RunFailed(f"{len(unfinished)} of {len(tasks)} trials: {', '.join(unfinished)}")
    print(
        f"finished: {len(tasks)} trials ({len(tasks) - len(todo)} were finished before); {folder}"
    )
    return 0


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[None]:
    from actors import cluster

    try:
        cluster.connect(address, object_store_bytes=_STORE_BYTES, cpus=0)
    except cluster.ClusterUnreachable as error:
        raise ConfigError(f"ray_address={address}: {error}") from error
    try:
        yield
    finally:
        cluster.disconnect()


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Both signals end the trials with a checkpoint. Ray has installed handlers of its own."""

    def stop(number: int, frame: object) -> None:
        del frame
        raise KeyboardInterrupt(*([number] if number == signal.SIGTERM else []))

    before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _each(plan: Sweep, planned: list[Planned], node_cpus: float) -> Any:
    """Resources of a trial.

    Raises:
        ConfigError: no node has them.
    """
    from scripts.trials import Each

    asked = plan.config.resources
    if asked.cpus is not None and asked.cpus > node_cpus:
        raise ConfigError(
            f"resources.cpus={asked.cpus:g}: the largest node has {node_cpus:g}; ask for less"
        )
    cpus = asked.cpus or min(node_cpus, max(_cpus(config) for _, config in planned))
    return Each(cpus, asked.gpus, asked.memory_mb * 2**20)


def _cpus(config: Config) -> float:
    """Of a learner and the actors that live beside it."""
    actors = config.actors
    beside = actors.runtime == "ray" and actors.ray_address is None
    return 1 + (math.ceil(actors.count * actors.cpus_per_actor) if beside else 0)


def _absolute(source: str) -> str:
    return str(Path(source).absolute()) if source.endswith((".yaml", ".yml")) else source


def _dry_run(plan: Sweep, planned: list[Planned]) -> None:
    """Lists the trials, and estimates how long they take from a short run of each variant."""
    for trial, config in planned:
        print(f"{trial.name}: {trial.source}, {config.seeds * config.total_frames:,} frames")
    frames = sum(config.seeds * config.total_frames for _, config in planned)
    print(f"{len(planned)} trials, {frames:,} frames", flush=True)
    node_cpus = float(os.cpu_count() or 1)
    each = _each(plan, planned, node_cpus)
    at_once = max(1, int(node_cpus // each.cpus))
    seconds = 0.0
    for variant in dict.fromkeys(trial.variant for trial, _ in planned):
        members = [item for item in planned if item.trial.variant == variant]
        rate = _measure(members[0], max(1, int(each.cpus)), each.gpus > 0)
        total = sum(config.seeds * config.total_frames for _, config in members)
        print(f"{variant}: {rate:,.0f} frames/s alone on this machine", flush=True)
        seconds += total / rate
    hours = seconds / 3600 / at_once
    print(
        f"about {hours:,.1f} hours on this machine ({each.cpus:g} CPUs for each trial, {at_once} "
        "at once, if none slows another down); divide by the number of such machines"
    )


def _measure(planned: Planned, threads: int, gpu: bool) -> float:
    """Frames a second of a trial in its first half minute, compilation left out.

    Raises:
        RunFailed: it does not run.
    """
    from scripts.runs import metrics_of
    from scripts.trials import child

    with tempfile.TemporaryDirectory() as temporary:
        run, log = Path(temporary) / "run", Path(temporary) / "log"
        arguments = ["train", _absolute(planned.trial.source), *planned.trial.overrides]
        arguments += [f"total_frames={10**11}", "learner.learning_rate_schedule=constant"]
        arguments += ["logging.every_seconds=2", "logging.tensorboard=false"]
        lines: Sequence[dict[str, Any]] = []
        with (
            log.open("w") as output,
            child([*arguments, "--run-dir", str(run)], Path.cwd(), threads, gpu, output) as process,
        ):
            deadline = time.monotonic() + _MEASURE_SECONDS
            while len(lines) < _MEASURE_LINES and time.monotonic() < deadline:
                time.sleep(0.5)
                lines = metrics_of(run)
                if process.poll() is not None:
                    break
        if len(lines) < 2:
            said = (log.read_text().strip().splitlines() or ["nothing"])[-1]
            raise RunFailed(f"{planned.trial.name} could not be measured: {said}")
    first, last = lines[len(lines) // 2 - 1], lines[-1]
    seeds = planned.config.seeds
    frames = seeds * (last["frames"] - first["frames"])
    return max(1.0, frames / (last["seconds"] - first["seconds"]))
