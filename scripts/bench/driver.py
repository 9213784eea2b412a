"""What one unroll costs the process that drives the actors, against the number of their places.

Run by hand: `python -m scripts.bench.driver`. The places are real, and so is Ray; but one process
answers for all of them, at once and with the same unroll, so that nothing but the driver is
measured. Numbers of places take turns.
"""

import argparse
import itertools
import json
import statistics
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from actors.cluster import Resources, connect, disconnect, ray
from actors.environments.vector import EnvironmentSpec
from actors.pool import PoolSettings, RaySource, Slot
from actors.server import ServerSpec
from agents.trajectory import Trajectory, Unroll
from scripts.bench.machine import machine

_ROUNDS = 5
_BATCH = 32  # unrolls
_STEPS, _ENVS = 20, 4  # of an unroll, as small as the policy's logits allow
_CATCH = EnvironmentSpec("catch", "catch", 1, 1, 0.0, False, 0, 1, 0.0)


class _Everybody:
    """Answers for every place."""

    def __init__(self) -> None:
        rows = (_STEPS, _ENVS)
        arrays: dict[str, Any] = {
            "observation": np.zeros((_STEPS + 1, _ENVS, 50), np.uint8),
            "action": np.zeros(rows, np.int32),
            "reward": np.zeros(rows, np.float32),
            "discount": np.ones(rows, np.float32),
            "behaviour_logits": np.zeros((*rows, 3), np.float32),
            "valid": np.ones(rows, bool),
        }
        self._unroll = Unroll(
            trajectory=Trajectory(**arrays),
            version=0,
            actor="actor",
            frames=_STEPS * _ENVS,
            steps=_STEPS * _ENVS,
            episodes=(),
            seconds={},
        )

    def unroll(self, params: Any, version: int) -> Unroll:
        del params
        return self._unroll._replace(version=version)


class _Places(RaySource):
    """So many places that one process fills."""

    def fill(self, everybody: Any, places: int) -> None:
        for index in range(places):
            slot = Slot(index, start_at=0.0, handle=everybody, node="here")
            self._slots.append(slot)
            self._turns.put(slot)

    def settle(self) -> None:
        """Waits until everybody has answered, so that the next pool does not queue behind them."""
        waiting = list(self._calls)
        ray.wait(waiting, num_returns=len(waiting), timeout=60.0)


class _Driver:
    """A pool of so many places, all filled by one process, and a learner that only publishes."""

    def __init__(self, everybody: Any, places: int) -> None:
        settings = PoolSettings(
            mode="fast",
            actors=0,  # none of its own
            unrolls_per_batch=_BATCH,
            unrolls_in_flight=2,
            max_bytes_in_flight=2**30,
            unroll_bytes=(_STEPS + 1) * _ENVS * 50,
            max_policy_lag=10**9,
            unroll_timeout_seconds=60.0,
            max_failures=3,
            environment_variables={},
            resources=Resources(0.0, 0, 0.0),
        )
        spec = ServerSpec(_CATCH, "shallow", _ENVS, _STEPS, 1, 0)
        self._source = _Places(spec, settings, itertools.count())
        self._source.fill(everybody, places)
        self._params = {"w": jnp.zeros((500, 256))}  # half a megabyte
        self._version = 0

    def run(self, seconds: float) -> tuple[float, float]:
        """Unrolls a second, and microseconds of this thread's processor time for each."""
        taken, start, cpu = 0, time.monotonic(), time.thread_time()
        while time.monotonic() - start < seconds:
            self._source.publish(self._params, self._version)
            self._version += 1
            batch = self._source.next_batch(10.0)
            taken += len(batch or ())
        seconds, used = time.monotonic() - start, time.thread_time() - cpu
        self._source.settle()
        return taken / seconds, 1e6 * used / taken


def main() -> None:
    """Prints the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each, in each round")
    arguments = parser.parse_args()
    connect(None, 0, 1)
    in_ray: Any = ray.remote(_Everybody)
    everybody = in_ray.options(num_cpus=0, max_concurrency=8).remote()
    drivers = {places: _Driver(everybody, places) for places in arguments.places}
    rates: dict[int, list[tuple[float, float]]] = {places: [] for places in drivers}
    for driver in drivers.values():
        driver.run(1.0)
    for _ in range(_ROUNDS):
        for places, driver in drivers.items():
            rates[places].append(driver.run(arguments.seconds))
    result = {
        places: {
            "unrolls_per_second": round(statistics.median(rate for rate, _ in of)),
            "microseconds_of_the_driver": round(statistics.median(cpu for _, cpu in of)),
        }
        for places, of in rates.items()
    }
    print(json.dumps({**machine(), "rounds": _ROUNDS, "places": result}, indent=2))
    disconnect()


if __name__ == "__main__":
    main()
