"""`bmg sweep`: many trainings from one file, on a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from actors.environments.atari_games import BY_NAME
from configs import load as config_load
from configs.load import ConfigError, ConfigErrors
from configs.names import added
from configs.schema import Config
from configs.sweep import Sweep, Trial, load_sweep, plan_of
from learner.run_folder import RunLocked, locked, replace_text
from scripts import jax_environment, plugins, ray_watch
from scripts.check import (
    RunFailed,
    all_faults,
    environment_spec,
    faults_of_game,
    keys_without_effect,
)
from scripts.folders import check_folder
from scripts.output import say
from scripts.resuming import check_same_run, with_own_schedule
from scripts.signals import exit_status, interrupt

if TYPE_CHECKING:  # ray is imported once the sweep is known to be good
    from scripts.trials import Each

_log = logging.getLogger(__name__)
_MEASURE_LINES = 8  # of metrics, after which the speed of a run is known well enough
_MEASURE_SECONDS = 150.0
# What turns a trial into a run that goes on until its speed is known.
MEASURING = (
    *(f"total_frames={10**11}", "learner.learning_rate_schedule=constant"),
    *("learner.schedule_frames=null", "logging.every_seconds=2", "logging.tensorboard=false"),
)
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
    folder = (Path(results) if results else Path("results") / plan.name).absolute()
    planned = _configurations(plan, folder if resume else None)
    _require_what_they_name(planned)
    ignored = [keys_without_effect(config, overrides) for _, config in planned]
    for key in sorted(set.intersection(*map(set, ignored))):
        _log.warning("bmg: %s acts nowhere: no trial learns a hyper-parameter", key)
    if dry_run:
        _dry_run(plan, planned)
        return 0
    check_folder(folder, resume=resume, option="--results", kind="sweep", marker="sweep.yaml")
    if resume:
        _check_same_sweep(planned, folder)
    return _run(plan, planned, folder)


def _configurations(plan: Sweep, resumed: Path | None) -> list[Planned]:
    """Loads and checks those of all trials.

    Args:
        plan: of the sweep.
        resumed: its folder, where it goes on.

    Raises:
        ConfigErrors: with every fault once, and in how many trials it is.
    """
    faults: dict[str, int] = {}
    planned: list[Planned] = []
    for trial in plan.trials:
        try:
            config, found = config_load.load_partly(
                trial.source, trial.overrides, plugins.import_all
            )
            planned.append(Planned(trial, config))
            if not found:
                folder = resumed and resumed / trial.name
                found = all_faults(with_own_schedule(config, folder) if folder else config)
            elif not any(fault.startswith("env.suite=") for fault in found):
                found += faults_of_game(config)  # other checks would blame defaults on the user
        except ConfigErrors as error:
            found = [*error.faults]
        except ConfigError as error:
            found = [str(error)]
        for fault in found:
            faults[fault] = faults.get(fault, 0) + 1
    if faults:
        count = len(plan.trials)
        lines = [f"{fault} (in {n} of {count} trials)" for fault, n in faults.items()]
        raise ConfigErrors(lines)
    return planned


def _require_what_they_name(planned: list[Planned]) -> None:
    """Looks up what only the packages themselves know, once for all trials that name the same.

    Raises:
        ConfigErrors: an environment does not exist, or a network cannot take its observations.
    """
    jax_environment.require_jax()
    from scripts import build

    foreign = ("gymnasium", *added("env.suite"))
    named = {
        (c.agent.network, environment_spec(c.env)): c for _, c in planned if c.env.suite in foreign
    }
    faults: dict[str, None] = {}
    for config in named.values():
        try:
            build.check_network(
                config.agent.network, build.probe_environment(config), config.env.game
            )
        except ConfigError as error:
            faults[str(error)] = None
    if faults:
        raise ConfigErrors([*faults])


def _check_same_sweep(planned: list[Planned], folder: Path) -> None:
    """Refuses to go on with trials whose learning would change, before any starts."""
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
    from scripts.trials import Task, is_finished

    tasks = [
        Task(
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
    todo = [task for task in tasks if not is_finished(task)]
    before = len(tasks) - len(todo)
    interrupted = _run_unfinished(plan, planned, folder, tasks, todo) if todo else None
    if interrupted is not None:
        say(f"interrupted; `bmg sweep ... --results {folder} --resume` goes on")
        return exit_status(interrupted)
    unfinished = [task.name for task in tasks if not is_finished(task)]
    if unfinished:
        raise RunFailed(f"{len(unfinished)} of {len(tasks)} trials: {', '.join(unfinished)}")
    say(f"finished: {len(tasks)} trials ({before} were finished before); {folder}")
    return 0


def _run_unfinished(
    plan: Sweep, planned: list[Planned], folder: Path, tasks: list[Any], todo: list[Any]
) -> KeyboardInterrupt | None:
    """Runs `todo` of `tasks`; returns the signal that ended it, if one did."""
    from actors import cluster
    from scripts.sweep_display import SweepDisplay
    from scripts.trials import run_tasks

    interrupt()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ray(plan.config.ray_address))
        each, at_once = _room(plan, planned, cluster.nodes())
        try:
            stack.enter_context(locked(folder))
        except RunLocked:
            raise ConfigError(f"--results {folder}: another sweep runs into it") from None
        head = cluster.head() if plan.config.ray_address else ""
        stack.enter_context(ray_watch.watched(*cluster.raylet(), head, folder))
        _write_plan(plan, folder)
        failed: dict[str, str] = {}
        display = stack.enter_context(contextlib.closing(SweepDisplay(plan.name, folder, tasks)))
        interrupted = None
        try:
            failed = run_tasks(todo, each, plan.config.retries, at_once, display.show)
        except KeyboardInterrupt as stop:
            interrupted = stop
        display.end(failed)
        return interrupted


def _write_plan(plan: Sweep, folder: Path) -> None:
    """Writes sweep.yaml; a part of a sweep that is resumed leaves the other trials in it."""
    file = folder / "sweep.yaml"
    content = plan_of(plan)
    if file.is_file():
        content["trials"] = {**_earlier_trials(file), **content["trials"]}
    replace_text(file, yaml.safe_dump(content, sort_keys=False))


def _earlier_trials(file: Path) -> dict[str, Any]:
    """Those of a sweep.yaml.

    Raises:
        ConfigError: it holds something else, and would be lost.
    """
    trials = config_load.read_file(str(file), "sweep").get("trials")
    if not isinstance(trials, dict):
        raise ConfigError(f"{file} names no trials: it is damaged; mend it, or move it away")
    return trials


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[None]:
    from actors import cluster

    try:
        cluster.connect(address, object_store_bytes=_STORE_BYTES, cpus=0)
    except cluster.ClusterUnreachable as error:
        raise ConfigError(f"ray_address={address}: {error}") from error
    except cluster.StartFailed as error:
        raise RunFailed(str(error)) from error
    try:
        yield
    finally:
        cluster.disconnect()


def _room(plan: Sweep, planned: list[Planned], nodes: list[dict[str, float]]) -> tuple[Each, int]:
    """Resources of a trial, and how many trials may run at once.

    Raises:
        ConfigError: no node, or not the cluster, has what one trial needs.
    """
    from scripts.trials import Each

    asked = plan.config.resources
    most = max(node.get("CPU", 0.0) for node in nodes)
    cpus = asked.cpus or min(most, max(_cpus(config) for _, config in planned))
    each = Each(cpus, asked.gpus, asked.memory_mb * 2**20)
    wanted = {"CPU": each.cpus, "GPU": each.gpus, "memory": each.memory_bytes}
    if not any(all(node.get(k, 0.0) >= v for k, v in wanted.items()) for node in nodes):
        told = "; ".join(
            f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs, "
            f"{node.get('memory', 0) / 2**20:.0f} MiB"
            for node in nodes[:3]
        )
        raise ConfigError(
            f"resources: no node has {each.cpus:g} CPUs, {each.gpus:g} GPUs and {asked.memory_mb} "
            f"MiB for a trial (the nodes have {told}); ask for less"
        )
    beside = max(_cpus_on_cluster(config) for _, config in planned)
    if not beside:
        return each, len(planned)
    total = sum(node.get("CPU", 0.0) for node in nodes)
    at_once = int(total // (each.cpus + beside))  # else learners would take their actors' CPUs
    if not at_once:
        raise ConfigError(
            f"actors.count: a trial needs {each.cpus:g} CPUs and {beside:g} for its actors; the "
            f"cluster has {total:g}"
        )
    return each, at_once


def _cpus(config: Config) -> float:
    """Of a learner and the actors that live beside it."""
    actors = config.actors
    beside = actors.runtime == "ray" and actors.ray_address is None
    return 1 + (math.ceil(actors.count * actors.cpus_per_actor) if beside else 0)


def _cpus_on_cluster(config: Config) -> float:
    """Of actors that live on the cluster, wherever there is room."""
    actors = config.actors
    joins = actors.runtime == "ray" and actors.ray_address is not None
    return actors.count * actors.cpus_per_actor if joins else 0.0


def _absolute(source: str) -> str:
    return str(Path(source).absolute()) if source.endswith((".yaml", ".yml")) else source


def _dry_run(plan: Sweep, planned: list[Planned]) -> None:
    """Lists the trials, and estimates how long they take from a short run of each variant."""
    import scripts.trials  # noqa: F401  # nothing may interrupt this import, of Ray

    interrupt()
    for trial, config in planned:
        say(f"{trial.name}: {trial.source}, {config.seeds * config.total_frames:,} frames")
    frames = sum(config.seeds * config.total_frames for _, config in planned)
    print(f"{len(planned)} trials, {frames:,} frames", flush=True)
    node_cpus = float(os.cpu_count() or 1)
    cpus = plan.config.resources.cpus or max(_cpus(config) for _, config in planned)
    cpus = min(node_cpus, cpus)
    at_once = max(1, int(node_cpus // cpus))
    seconds, unknown = 0.0, list[str]()
    for variant in dict.fromkeys(trial.variant for trial, _ in planned):
        members = [item for item in planned if item.trial.variant == variant]
        rate = _measure(members[0], max(1, int(cpus)), plan.config.resources.gpus > 0)
        if rate is None:
            unknown.append(variant)
            print(f"{variant}: unknown, no update in {_MEASURE_SECONDS:g} s", flush=True)
            continue
        total = sum(config.seeds * config.total_frames for _, config in members)
        shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        print(f"{variant}: {shown} frames/s alone on this machine", flush=True)
        seconds += total / rate
    hours = seconds / 3600 / at_once
    beside = f", and the unknown time of {', '.join(unknown)}," if unknown else ""
    print(
        f"about {hours:,.1f} hours{beside} on this machine ({cpus:g} CPUs for each trial, "
        f"{at_once} at once, if none slows another down); divide by the number of such machines"
    )


def _measure(planned: Planned, threads: int, gpu: bool) -> float | None:
    """Frames a second of a trial in its first half minute; None if it has not learned by then.

    Raises:
        RunFailed: it does not run.
    """
    from learner.reading import read_metrics
    from scripts.trials import child

    with tempfile.TemporaryDirectory() as temporary:
        run, log = Path(temporary) / "run", Path(temporary) / "log"
        source, overrides = _absolute(planned.trial.source), planned.trial.overrides
        arguments = ["train", source, *overrides, *MEASURING]
        lines: Sequence[dict[str, Any]] = []
        ended = False
        with (
            log.open("w") as output,
            child([*arguments, "--run-dir", str(run)], Path.cwd(), threads, gpu, output) as process,
        ):
            deadline = time.monotonic() + _MEASURE_SECONDS
            while len(lines) < _MEASURE_LINES and time.monotonic() < deadline:
                time.sleep(0.5)
                lines, _ = read_metrics(run)
                if ended := process.poll() is not None:
                    break
        lines, _ = read_metrics(run)  # the last one is written when it is ended
        rate = _frames_per_second(lines, planned.config.seeds)
        if rate is None and ended:
            said = (log.read_text().strip().splitlines() or ["nothing"])[-1]
            raise RunFailed(f"{planned.trial.name} could not be measured: {said}")
    return rate


def _frames_per_second(lines: Sequence[dict[str, Any]], seeds: int) -> float | None:
    """Speed of all seeds by a run's metrics, compilation left out where they are lines enough.

    Of a run so slow that it has one line, it is what it did from its start on.
    """
    if not lines:
        return None
    first = lines[len(lines) // 2 - 1] if len(lines) > 1 else {"frames": 0, "seconds": 0.0}
    frames = lines[-1]["frames"] - first["frames"]
    seconds = lines[-1]["seconds"] - first["seconds"]
    return seeds * frames / seconds if frames > 0 and seconds > 0 else None
