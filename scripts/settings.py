"""From a `Config` to what an algorithm is told; the one place where the two meet."""

import logging
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from agents.hyperparameters import HYPERPARAMETERS, Learned
from agents.meta_parameters import init_meta_params, single_numbers
from agents.networks import Heads
from agents.settings import MetaSettings, OptimizerSettings, Settings
from configs.load import ConfigError, load
from configs.schema import Config
from learner.reading import read_metrics

_log = logging.getLogger(__name__)


def make_settings(config: Config) -> Settings:
    """All that decides how the agent of a configuration learns.

    Raises:
        ConfigError: there is no schedule to replay.
    """
    agent, learner, meta = config.agent, config.learner, config.meta
    rate: optax.ScalarOrSchedule = learner.learning_rate
    if learner.learning_rate_schedule == "linear":
        updates = config.updates_of(config.horizon)
        rate = optax.linear_schedule(learner.learning_rate, 0.0, updates)
    names = meta.learned if config.learns else []
    fixed = {name: getattr(agent, name, entry.default) for name, entry in HYPERPARAMETERS.items()}
    outer = {
        name: getattr(meta.outer, name, entry.outer)
        for name, entry in HYPERPARAMETERS.items()
        if entry.outer is not None
    }
    replayed, heads = None, agent.auxiliary_heads
    if config.hyperparameters_from is not None:
        folder = Path(config.hyperparameters_from)
        replayed = _replayed(folder, config.frames_per_update, heads)
    same_names = OptimizerSettings._fields[2:]
    return Settings(
        algorithm=agent.algorithm,
        optimizer=OptimizerSettings(
            learner.optimizer, rate, **{name: getattr(learner, name) for name in same_names}
        ),
        objective=agent.objective,
        loss=learner.loss,
        heads=Heads(heads, agent.auxiliary_layers, agent.outer_value_head),
        max_kl=config.replay.max_kl,
        fixed=fixed,
        learned={name: Learned(*config.hyperparameter_range(name)) for name in names},
        # One that is no part of the plain objective has its fixed value there.
        outer={**fixed, **outer},
        kl_cost=meta.outer.kl_cost,
        meta=MetaSettings(**{name: getattr(meta, name) for name in MetaSettings._fields}),
        replayed=replayed,
    )


def _replayed(
    folder: Path, frames: int, auxiliary_heads: int
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """What another run learned, against our updates: linear between its log lines.

    Frames decide what belongs together, so the two runs may have batches of different sizes.

    Args:
        folder: of that run.
        frames: of each of our updates.
        auxiliary_heads: ours.

    Raises:
        ConfigError: that run has learned nothing, or for other heads.
    """
    source = load(str(folder / "config.yaml"))
    names = [name for name in source.meta.learned if name in HYPERPARAMETERS]
    keys = {name: [f"meta/{name}"] for name in names if source.learns}
    for name in keys:
        if HYPERPARAMETERS[name].per_head:
            keys[name] += [f"meta/auxiliary_{i}/{name}" for i in range(1, 1 + auxiliary_heads)]
    if keys and auxiliary_heads != source.agent.auxiliary_heads:
        raise ConfigError(
            f"agent.auxiliary_heads={auxiliary_heads}: the run in hyperparameters_from={folder} "
            f"has {source.agent.auxiliary_heads}, each with its own hyper-parameters; set the same"
        )
    wanted = ["learner_updates", *(key for of_name in keys.values() for key in of_name)]
    every, faults = read_metrics(folder)
    for fault in faults:
        _log.warning("hyperparameters_from: %s: left out", fault)
    lines = [line for line in every if all(line.get(key) is not None for key in wanted)]
    if not keys or not lines:
        raise ConfigError(
            f"hyperparameters_from={folder}: that run has learned no hyper-parameter, or not yet; "
            "give one of agent.algorithm=stacx or bmg"
        )
    pace = source.frames_per_update / frames
    knots = jnp.asarray([0.0, *(line["learner_updates"] * pace for line in lines)], jnp.float32)
    learned = {name: Learned(*source.hyperparameter_range(name)) for name in keys}
    start = single_numbers({}, learned, 1).values(init_meta_params(learned, 1), ())
    curves = {
        name: [jnp.asarray([float(start[name]), *(x[key] for x in lines)]) for key in of_name]
        for name, of_name in keys.items()
    }

    def replayed(updates: jax.Array) -> dict[str, jax.Array]:
        now = {name: [jnp.interp(updates, knots, c) for c in cs] for name, cs in curves.items()}
        return {name: jnp.stack(v) if len(v) > 1 else v[0] for name, v in now.items()}

    return replayed
