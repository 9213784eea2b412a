"""The plain objective of the meta-learner: the actor-critic loss at values that never change.

Zahavy et al. 2020 (arXiv 2002.12928), section 3: the V-trace actor-critic loss of the acting head
and a divergence from the policy before the inner updates.
"""

import jax
import jax.numpy as jnp

from agents import actor_critic
from agents.hyperparameters import Hyperparameters
from agents.networks import NetworkOutput
from agents.policies import kl_divergence
from agents.trajectory import Trajectory
from agents.vtrace import Targets


def view(outputs: NetworkOutput) -> NetworkOutput:
    """What the outer loss sees: the acting policy, and the outer value where there is one."""
    value = outputs.value if outputs.outer_value is None else outputs.outer_value
    return NetworkOutput(outputs.logits, value)


def make_targets(outputs: NetworkOutput, trajectory: Trajectory, hyper: Hyperparameters) -> Targets:
    """As `actor_critic.make_targets`, of what the outer loss sees."""
    return actor_critic.make_targets(view(outputs), trajectory, hyper)


def make_loss(kl_cost: float, logits_before: jax.Array | None):
    """As `actor_critic.loss`, plus kl_cost * KL(new policy || policy before), summed over steps.

    Args:
        kl_cost: weight; with 0 the second argument is not needed.
        logits_before: [T+1, B, A], of the policy before the inner updates.
    """

    def loss(
        outputs: NetworkOutput, targets: Targets, trajectory: Trajectory, hyper: Hyperparameters
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        total, metrics = actor_critic.loss(view(outputs), targets, trajectory, hyper)
        if logits_before is not None:
            kl = kl_divergence(outputs.logits[:-1], logits_before[:-1])
            total = total + kl_cost * jnp.sum(kl * trajectory.valid)
        return total, metrics

    return loss
