"""Objectives: what an actor-critic minimises; `agent.objective` names one of the table.

A plugin adds one in a line (docs/extending.md). Each is the same seam: targets outside the
gradient, loss inside, and nothing is stopped.
"""

from typing import NamedTuple

from agents import actor_critic
from agents.actor_critic import Loss
from agents.update import MakeTargets


class Objective(NamedTuple):
    """What the inner update minimises, and at the outer hyper-parameters the target's last step."""

    make_targets: MakeTargets  # of trajectories that an older policy may have played
    loss: Loss  # summed over the valid steps; its metrics hold `loss/total`
    # Of trajectories that the same policy has just played (two_colours); None: as the others.
    own_targets: MakeTargets | None = None


OBJECTIVES: dict[str, Objective] = {
    "actor_critic": Objective(
        actor_critic.make_targets, actor_critic.loss, actor_critic.make_one_step_targets
    ),
}
