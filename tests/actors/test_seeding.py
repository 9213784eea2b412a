"""No two environments and no two actors share a random stream."""

import jax
import numpy as np

from actors.seeding import environment_seeds, policy_key
from actors.server import UnrollServer
from tests.actors.specs import ATARI, server_spec


def test_environment_seeds_never_repeat():
    """Over actors, replacements and restarts of a run, by construction: the stride is odd."""
    serials = [*range(300), *range(100_000, 100_300), *range(900_000, 900_300)]
    seeds = np.concatenate([environment_seeds(7, serial, 32) for serial in serials])
    assert len(np.unique(seeds)) == len(seeds)
    assert seeds.min() >= 0  # what ale-py takes
    assert not np.array_equal(environment_seeds(7, 0, 32), environment_seeds(8, 0, 32))


def test_policy_keys_never_repeat():
    keys = {
        tuple(np.asarray(jax.random.key_data(policy_key(seed, serial))))
        for seed in range(20)
        for serial in range(20)
    }
    assert len(keys) == 400


def test_no_two_actors_play_alike():
    """The real thing: two servers' environments start with other no-ops and act differently."""
    spec = server_spec(ATARI._replace(sticky_actions=0.25), num_envs=8, unroll_length=40)
    unrolls = []
    for serial in (0, 1):
        server = UnrollServer(spec, serial)
        params = _params(server)
        unrolls.append(server.unroll(params, 0).trajectory)
        server.close()
    columns = [t.observation[:, b] for t in unrolls for b in range(8)]
    actions = [tuple(t.action[:, b]) for t in unrolls for b in range(8)]
    assert len(set(actions)) == 16
    for i, a in enumerate(columns):
        assert not any(np.array_equal(a, b) for b in columns[i + 1 :])


def _params(server):
    from agents.networks import make_network

    environment = server._environment
    return make_network(
        "shallow",
        environment.num_actions,
        environment.observation_shape,
        environment.observation_dtype,
    ).init(jax.random.key(0))
