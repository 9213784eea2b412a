"""What a configuration chooses by name: built-in names, and those that plugins have added.

Each name is a key of one table, whose module may import jax or an emulator. So the built-in ones
stand here as well, and a table is looked at only where its module is imported already: whoever has
added to it has done that.
"""

import re
import sys
from typing import Any, NamedTuple

# Gymnasium names environments so; with `ale` or `kind` it is a game of Atari.
ENVIRONMENT_ID = re.compile(
    r"(?:(?P<ale>ALE/)|(?P<module>[\w.]+[/:]))?(?P<name>[A-Z]\w*?)"
    r"(?P<kind>NoFrameskip|Deterministic|-ram|)-v(?P<version>\d+)"
)


def game_of(match: re.Match[str]) -> str:
    """What a game of Atari is called here, of its name in Gymnasium."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", match["name"]).lower()


class Table(NamedTuple):
    """Where a name is looked up."""

    module: str
    attribute: str  # a dict by name
    built_in: tuple[str, ...]
    of_tasks: tuple[str, ...] = ()  # what few-shot learning has instead, in no table


TABLES = {
    "env.suite": Table(
        "actors.environments.suites",
        "SUITES",
        ("atari", "catch", "few_shot", "gymnasium", "minatar", "two_colours"),
    ),
    "agent.algorithm": Table(
        "agents.algorithm",
        "ALGORITHMS",
        ("impala", "stacx", "bmg", "actor_critic", "mg", "q_lambda", "q_lambda_bmg"),
        ("maml", "fomaml"),
    ),
    "agent.network": Table(
        "agents.networks",
        "NETWORKS",
        ("shallow", "shallow_atari", "deep", "small", "dense", "separate"),
        ("dense_40", "four_blocks"),
    ),
    "agent.objective": Table("agents.objectives", "OBJECTIVES", ("actor_critic",)),
    "meta.matching": Table(
        "agents.matching", "MATCHING", ("l2", "kl", "reverse_kl", "value", "kl_value")
    ),
}


def added(key: str) -> list[str]:
    """Names that are not built in, of a key of the configuration."""
    table = TABLES[key]
    names: dict[str, Any] = getattr(sys.modules.get(table.module), table.attribute, {})
    return [name for name in names if name not in table.built_in]


def known(key: str) -> list[str]:
    """All names that a key of the configuration takes."""
    return [*TABLES[key].built_in, *TABLES[key].of_tasks, *added(key)]
