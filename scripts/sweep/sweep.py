"""`bmg sweep`: many trainings from one file, on a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from actors.environments.atari_games import BY_NAME
from configs import load as config_load
from configs.load import ConfigError
from configs.sweep import Sweep, load_sweep, plan_of
from learner.run_folder import RunLocked, locked, replace_text
from scripts import ray_watch
from scripts.check import (
    RunFailed,
    keys_without_effect,
)
from scripts.folders import check_folder
from scripts.output import say
from scripts.signals import exit_status, interrupt
from scripts.sweep.plan import Planned, check_same_sweep, configurations, require_what_they_name

if TYPE_CHECKING:  # ray is imported once the sweep is known to be good
    from scripts.sweep.trials import Each

_log = logging.getLogger(__name__)
_STORE_BYTES = 256 * 2**20


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
    planned = configurations(plan, folder if resume else None)
    require_what_they_name(planned)
    ignored = [keys_without_effect(config, overrides) for _, config in planned]
    for key in sorted(set.intersection(*map(set, ignored))):
        _log.warning("bmg: %s acts nowhere, in no trial: %s", key, ignored[0][key])
    if dry_run:
        from scripts.sweep.dry_run import list_trials

        list_trials(plan, planned)
        return 0
    check_folder(folder, resume=resume, option="--results", kind="sweep", marker="sweep.yaml")
    if resume:
        check_same_sweep(planned, folder)
    return _run(plan, planned, folder)


def _run(plan: Sweep, planned: list[Planned], folder: Path) -> int:
    from scripts.sweep.trials import Task, is_finished

    tasks = [
        Task(
            trial.name,
            trial.source,
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
    from scripts.sweep.display import SweepDisplay
    from scripts.sweep.trials import run_tasks

    interrupt()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ray(plan.config.ray_address))
        each, at_once = _room(plan, planned, cluster.nodes())
        try:
            stack.enter_context(locked(folder))
        except RunLocked:
            raise ConfigError(f"--results {folder}: another sweep runs into it") from None
        head = cluster.head() if plan.config.ray_address else ""
        stack.enter_context(ray_watch.watched(*cluster.raylet(), head, folder, cluster.own_head()))
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
    from scripts.sweep.trials import Each

    asked = plan.config.resources
    most = max(node.get("CPU", 0.0) for node in nodes)
    cpus = asked.cpus or min(most, max(trial.cpus for trial in planned))
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
    beside = max(trial.cpus_on_cluster for trial in planned)
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
