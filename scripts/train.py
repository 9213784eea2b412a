"""`bmg train`: one run from a configuration to a run folder."""

from pathlib import Path

from configs import load as config_load
from configs.load import ConfigError
from configs.schema import Config
from scripts import jax_environment, plugins
from scripts.check import check, keys_without_effect
from scripts.folders import check_run_folder, new_folder
from scripts.resuming import check_same_run, check_schedule, with_own_schedule


def train(source: str, overrides: list[str], run_dir: str | None, resume: bool) -> int:
    """Trains, and returns the exit status: 0, or 128 + the signal that ended the run.

    Raises:
        ConfigError: nothing was created or started.
        RunFailed: the run folder says `failed`.
    """
    config = config_load.load(source, overrides, plugins.import_all)
    if config.learner.process:  # of several; the first one sees to the run folder
        check(config)
        return _start(config, Path(run_dir or "runs"), resume, [])
    if not run_dir:
        check(config)
        if resume:
            raise ConfigError("--resume needs --run-dir, the folder of the run to go on with")
        with new_folder(config.name) as path:
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
    # Only now, as they import jax: a configuration that is refused is refused at once.
    if config.runs_on_device:
        from scripts.train_on_device import run
    else:
        from scripts.train_with_actors import run
    return run(config, path, resume, without_effect)
