"""Which run folders there are, and which of a sweep there should be."""

import os
from pathlib import Path

from configs.load import ConfigError, read_file
from learner.reading import METRICS
from learner.run_folder import SEEDS

_CURVES = (METRICS, SEEDS)  # of which a run folder has one at least


def folders_with_curves(paths: list[Path]) -> list[Path]:
    """The run folders that are given, or lie in folders that are given.

    Raises:
        ConfigError: there is none in one of them.
    """
    found: list[Path] = []
    for path in paths:
        if any(os.path.isfile(path / name) for name in _CURVES):
            found.append(path)
            continue
        names = _CURVES if os.path.isdir(path) else ()
        inside = sorted(file.parent for name in names for file in path.rglob(name))
        # The copy of a schedule that a run replays is part of that run.
        inside = [run for run in inside if run.name != "hyperparameters_from"]
        if not inside:
            raise ConfigError(f"{path} holds no run (no metrics.jsonl); give run folders")
        found += inside
    return list(dict.fromkeys(found))


def planned_trials(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """Run folders of the trials that sweeps in or just above these folders should have.

    Returns:
        The folders, and which plans cannot be read.
    """
    files = [file for path in paths for file in path.rglob("sweep.yaml")]
    files += [path.parent / "sweep.yaml" for path in paths]
    planned: list[Path] = []
    faults: list[str] = []
    for file in {file.absolute() for file in files if file.is_file()}:
        try:
            trials = read_file(str(file), "sweep").get("trials") or {}
        except ConfigError as error:
            faults.append(str(error))
            continue
        if isinstance(trials, dict):
            planned += [file.parent / str(name) for name in trials]
        else:
            faults.append(f"{file} names no trials: it is damaged")
    return planned, faults
