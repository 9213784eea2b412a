"""Different moments of a game for environments that are stepped together."""

import numpy as np

from actors.environments.vector import EnvironmentRefused, Restartable, VectorEnvironment

_STREAM = 1  # of a server's random numbers; another one's environments have other draws


def stagger(
    environment: VectorEnvironment, observation: np.ndarray, steps: int, seed: int, serial: int
) -> tuple[np.ndarray, np.ndarray]:
    """Plays each of B environments at random for a number of steps of its own, from a reset on.

    All are stepped together, and each begins anew when as many steps are left as it should play.

    Args:
        environment: just reset.
        observation: [B, ...] of that reset.
        steps: at most so many; each environment plays a uniform draw from 0.
        seed: of the run.
        serial: of the server within the run.

    Returns:
        Observations [B, ...] to go on from, and which environments are in an episode that was not
        begun by whoever plays on, [B] bool.

    Raises:
        EnvironmentRefused: it cannot begin some episodes while the others go on.
    """
    if not isinstance(environment, Restartable):
        raise EnvironmentRefused("env.stagger_frames: these environments have no `restart`; use 0")
    random, count = np.random.default_rng((seed, serial, _STREAM)), environment.num_envs
    played = random.integers(steps + 1, size=count)
    for step in range(steps):
        beginning = played == steps - step
        if step and beginning.any():
            observation = environment.restart(beginning)
        action = random.integers(environment.num_actions, size=count, dtype=np.int32)
        observation = environment.step(action).observation
    if (beginning := played == 0).any():
        observation = environment.restart(beginning)
    return observation, played > 0
