"""What a measurement was made on, and how fast something ran on it."""

import datetime
import os
import platform
import time
from collections.abc import Callable
from typing import Any


def machine() -> dict[str, Any]:
    """Where and when something was measured."""
    import jax

    return {
        "machine": {
            "cpus": os.cpu_count(),
            "processor": _processor(),
            "devices": [str(device) for device in jax.local_devices()],
            "python": platform.python_version(),
            "jax": jax.__version__,
        },
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def matrix_product() -> tuple[Callable[[], Any], float]:
    """A product of two matrices of 1024 x 1024 float32, and how many operations it is.

    What a network does is such products, so their rate is what a program could reach at the most.
    """
    import jax
    import jax.numpy as jnp

    size = 1024
    matrix = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    return lambda: product(matrix, matrix), 2.0 * size**3


def rate(work: Callable[[], int], seconds: float) -> float:
    """Steps per second of `work`, which returns how many it did."""
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        done += work()
    return done / (time.perf_counter() - start)
