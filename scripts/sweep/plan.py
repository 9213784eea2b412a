"""The trials of a sweep, each with the configuration that it will train; all are checked first."""

import math
from pathlib import Path
from typing import NamedTuple

from configs import load as config_load
from configs.load import ConfigError, ConfigErrors
from configs.names import added
from configs.schema import Config
from configs.sweep import Sweep, Trial
from scripts import jax_environment, plugins
from scripts.check import all_faults, environment_spec, faults_of_game
from scripts.resuming import check_same_run, with_own_schedule

# What turns a trial into a run that goes on until its speed is known.
MEASURING = (
    *(f"total_frames={10**11}", "learner.learning_rate_schedule=constant"),
    *("learner.schedule_frames=null", "logging.every_seconds=2", "logging.tensorboard=false"),
)


class Planned(NamedTuple):
    """A trial and what it will train."""

    trial: Trial
    config: Config

    @property
    def source(self) -> str:
        """Of its configuration, from whatever folder it is started."""
        source = self.trial.source
        return str(Path(source).absolute()) if source.endswith((".yaml", ".yml")) else source

    @property
    def cpus(self) -> float:
        """Of a learner and the actors that live beside it."""
        actors = self.config.actors
        beside = actors.runtime == "ray" and actors.ray_address is None
        return 1 + (math.ceil(actors.count * actors.cpus_per_actor) if beside else 0)

    @property
    def cpus_on_cluster(self) -> float:
        """Of actors that live on the cluster, wherever there is room."""
        actors = self.config.actors
        joins = actors.runtime == "ray" and actors.ray_address is not None
        return actors.count * actors.cpus_per_actor if joins else 0.0


def configurations(plan: Sweep, resumed: Path | None) -> list[Planned]:
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
                # Other checks would blame defaults on the user.
                found += faults_of_game(config.env, config.evaluation.protocol)
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


def require_what_they_name(planned: list[Planned]) -> None:
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
                config.agent.network,
                build.probe_environment(config.env, config.seed),
                config.env.game,
            )
        except ConfigError as error:
            faults[str(error)] = None
    if faults:
        raise ConfigErrors([*faults])


def check_same_sweep(planned: list[Planned], folder: Path) -> None:
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
