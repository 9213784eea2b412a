"""What docs/extending.md describes, from outside the packages: `python extension.py train ...`."""

import sys

import jax
import jax.numpy as jnp

from agents import actor_critic
from agents.hyperparameters import HYPERPARAMETERS, Hyperparameter
from agents.matching import matching

# One entry: agent.advantage_scale, meta.outer.advantage_scale and meta.upper.advantage_scale exist
# from here on, and meta.learned may name it.
HYPERPARAMETERS["advantage_scale"] = Hyperparameter(
    "Factor of the advantages.", default=1.0, outer=1.0, upper=2.0
)

_make_targets = actor_critic.make_targets


def make_targets(outputs, trajectory, hyper):
    """The targets of the actor-critic, with advantages that are scaled."""
    targets = _make_targets(outputs, trajectory, hyper)
    return targets._replace(advantage=hyper["advantage_scale"] * targets.advantage)


actor_critic.make_targets = make_targets


@matching
def hellinger(target, learner, trajectory, weights):
    """Squared Hellinger distance of policies, mean over valid steps."""
    roots = [jnp.sqrt(jax.nn.softmax(p.outputs.logits[:-1])) for p in (target, learner)]
    distance = 0.5 * jnp.sum(jnp.square(roots[0] - roots[1]), axis=-1)
    mask = trajectory.valid.astype(distance.dtype)
    return weights.policy * jnp.sum(distance * mask) / jnp.maximum(jnp.sum(mask), 1.0)


if __name__ == "__main__":
    from scripts.cli import main

    sys.exit(main())
