"""Checks of runs whose environment is part of the learner's program."""

import json
from collections.abc import Mapping
from typing import Any

from agents.hyperparameters import HYPERPARAMETERS
from configs.load import ConfigError, flat
from configs.schema import ActorsConfig, Config


def check_playing(config: Config) -> None:
    """Refuses what a learner that plays on its own device does not know.

    Raises:
        ConfigError: one line.
    """
    meta = config.meta
    values = flat(config.model_dump(mode="json"))
    _require({"replay.unrolls": 0, "evaluation.every_frames": 0}, values)
    if config.learns and meta.bootstrap_steps > 1 and not meta.keep_bootstrapped:
        raise ConfigError(
            f"meta.bootstrap_steps={meta.bootstrap_steps}: actors.runtime=on_device has no replay "
            "for the target's further steps; use meta.keep_bootstrapped=true, with which the "
            "learner goes on from them, or meta.bootstrap_steps=1"
        )


# There are none, so that whatever is said of them would be ignored.
_NO_ACTORS: dict[str, Any] = {
    f"actors.{key}": value for key, value in ActorsConfig().model_dump().items() if key != "runtime"
}


def _require(required: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuses values, by dotted key, that a program which plays for itself would ignore."""
    for key, value in required.items():
        if values[key] != value:
            raise ConfigError(
                f"{key}={values[key]}: must be {json.dumps(value)} for "
                f"agent.algorithm={values['agent.algorithm']} on env.suite={values['env.suite']}, "
                "whose environment runs in the learner's own program"
            )


def check_on_policy(config: Config) -> None:
    """Refuses what an agent that plays between its updates does not know.

    Raises:
        ConfigError: one line.
    """
    name = config.agent.algorithm
    required: dict[str, Any] = {
        "learner.batch_size": 1,
        "env.reward_clip": 0.0,
        "agent.auxiliary_heads": 0,
        "agent.outer_value_head": False,
        "replay.unrolls": 0,
        "replay.max_kl": 0.0,
        "meta.outer.kl_cost": 0.0,
        "meta.warmup_updates": 0,
        "hyperparameters_from": None,
        "evaluation.every_frames": 0,
    }
    if config.learns:
        required["meta.keep_bootstrapped"] = True
    if name.startswith("q_lambda"):
        required |= {"learner.unroll_length": 1, "learner.loss": "sum", "meta.inner_steps": 1}
        required |= {"agent.objective": "actor_critic"}
        required |= {"agent.network": "separate", "meta.target_optimizer": "learner"}
    else:
        ignored = [key for key in config.without_gradient if key != "epsilon"]
        required |= {f"agent.{key}": HYPERPARAMETERS[key].default for key in ignored}
        required |= {f"meta.outer.{key}": HYPERPARAMETERS[key].outer for key in ignored}
    _require(required | _NO_ACTORS, flat(config.model_dump(mode="json")))
    if name == "q_lambda_bmg" and config.meta.bootstrap_steps < 2:
        raise ConfigError(
            f"meta.bootstrap_steps={config.meta.bootstrap_steps}: must be at least 2; "
            "agent.algorithm=q_lambda_bmg plays and learns L - 1 steps to its target"
        )
    if not config.learns:
        return
    blind = {"l2", "value"} if name == "q_lambda_bmg" else set()
    if config.agent.network == "separate" and set(config.meta.learned) <= {
        "entropy_cost",
        "policy_cost",
    }:
        blind.add("value")  # of a network that these never reach
    if config.meta.matching in blind:
        raise ConfigError(
            f"meta.matching={config.meta.matching}: it does not depend on meta.learned="
            f"{config.meta.learned}, so nothing would be learned; use kl"
        )
