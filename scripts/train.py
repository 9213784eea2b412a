"""`bmg train`: one run from a configuration to a run folder."""

import contextlib
import functools
from pathlib import Path

from configs import load as config_load
from configs.load import ConfigError
from configs.schema import Config
from learner.run_folder import configuration_of, trained_frames
from scripts import jax_environment, plugins, signals
from scripts.check import check, keys_without_effect
from scripts.folders import check_run_folder, new_folder
from scripts.resuming import check_frames, check_same_run, with_own_schedule


def train(
    source: str | None,
    overrides: list[str],
    run_dir: str | None,
    resume: bool,
    dry_run: bool = False,
    profile: bool = False,
) -> int:
    """Trains, and returns the exit status: 0, or 128 + the signal that ended the run.

    Args:
        source: a configuration; None: that of the run in `run_dir`, which goes on.
        overrides: `dotted.key=value`.
        run_dir: None: a new folder.
        resume: whether to go on with what is there.
        dry_run: only prints what would be trained.
        profile: whether to leave a trace of a few steps in the run folder.

    Raises:
        ConfigError: nothing was created or started.
        RunFailed: the run folder says `failed`.
    """
    own = source is None
    if source is None:
        assert run_dir is not None
        check_run_folder(Path(run_dir), resume=True)
        source = str(configuration_of(Path(run_dir)))
    import_all = functools.partial(plugins.import_all, say=own)
    config = config_load.load(source, overrides, import_all)
    if own:
        plugins.say_game(config.env, source)
    if config.logging.sink is not None:
        plugins.sink(config.logging.sink, source, say=own)
    if config.learner.process:  # of several; the first one sees to the run folder
        check(config)
        return _start(config, Path(run_dir or "runs"), resume, [], profile)
    if not run_dir:
        check(config)
        if resume:
            raise ConfigError("--resume needs --run-dir, the folder of the run to go on with")
        if dry_run:
            _try(config, Path("runs"))
            return _print_plan(config, source, overrides, None)
        with new_folder(config.name) as path:
            return _start(config, path, resume, overrides, profile)
    path = Path(run_dir)
    check(with_own_schedule(config, path) if resume else config)
    check_run_folder(path, resume=resume)
    if resume:
        check_same_run(config, path)
        check_frames(config.total_frames, config.learner.schedule_frames, path)
    if dry_run:
        _try(config, path)
        trained = trained_frames(path) if resume else 0
        return _print_plan(config, source, overrides, path, trained)
    return _start(config, path, resume, overrides, profile)


def _try(config: Config, path: Path) -> None:
    """Builds what a user's own code is a part of, which is the only way to know that it fits.

    Args:
        config: of the run.
        path: of its folder.

    Raises:
        ConfigError: it does not.
    """
    if not config.plugins and not (config.env.suite == "gymnasium" and ":" in config.env.game):
        return
    jax_environment.require_jax()
    if config.actors.on_device:
        from scripts.train_on_device import prepare

        prepare(config, path)
    elif config.learner.processes == 1:  # else the devices of the others would be missing
        from scripts.train_with_actors import prepare

        prepare(config, path)


def _print_plan(
    config: Config, source: str, overrides: list[str], path: Path | None, trained: int = 0
) -> int:
    from scripts.configs import print_plan  # only here: it imports rich

    return print_plan(config, source, overrides, path, trained)


def _start(config: Config, path: Path, resume: bool, overrides: list[str], profile: bool) -> int:
    from scripts.display import NoDisplay, make_display

    without_effect = keys_without_effect(config, overrides)
    title = f"{config.name}: {config.env.game} -> {path}"
    with contextlib.ExitStack() as stack:
        # Before all that takes seconds.
        display = NoDisplay()
        if not config.learner.process:
            display = make_display(title, config.total_frames, config.env.unit)
        stack.enter_context(signals.undone(display.abandon))
        stack.enter_context(contextlib.closing(display))
        display.wait(lambda: "loading JAX")
        jax_environment.require_jax()
        # Only now, as they import jax: a configuration that is refused is refused at once.
        if config.actors.on_device:
            from scripts.train_on_device import run
        else:
            from scripts.train_with_actors import run
        return run(config, path, resume, without_effect, display, profile)
