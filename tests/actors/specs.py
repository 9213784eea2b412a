"""Specs that several tests start from."""

from actors.environments.vector import EnvironmentSpec
from actors.pool import PoolSettings
from actors.server import ServerSpec

ATARI = EnvironmentSpec("atari", "breakout", 4, 4, 0.0, False, 30, 108_000, 0.0)
CATCH = EnvironmentSpec("catch", "catch", 1, 1, 0.0, False, 0, 1, 0.0)

POOL = PoolSettings(
    mode="fast",
    actors=2,
    unrolls_per_batch=2,
    unrolls_in_flight=2,
    max_bytes_in_flight=2**30,
    unroll_bytes=1_600,
    max_policy_lag=20,
    unroll_timeout_seconds=60.0,
    max_failures=3,
    environment_variables={"JAX_PLATFORMS": "cpu", "NPROC": "1"},
)


def gymnasium_spec(name):
    return CATCH._replace(suite="gymnasium", game=f"tests.actors.environments_for_tests:{name}-v0")


def server_spec(environment=CATCH, num_envs=4, unroll_length=7, seed=0):
    return ServerSpec(environment, "shallow", num_envs, unroll_length, 1, seed)
