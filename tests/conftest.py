"""Strict JAX: no broadcast between ranks, eight virtual devices, double precision on request.

Programs are compiled once for all tests that build the same one, and for the next time.
"""

import os

# As actors/cluster.py does, but tests may import ray before it.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import pytest
from xdist.scheduler import LoadFileScheduling

from scripts.runtime import use_compilation_cache

jax.config.update("jax_numpy_rank_promotion", "raise")
use_compilation_cache()  # as a run does: many tests build the same small learner


@pytest.fixture
def x64():
    """Double precision for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


# Without Ray, or with one that little else waits for.
_ANYWHERE = tuple(
    f"tests/system/test_{name}.py"
    for name in (
        "bad_input",
        "earlier_runs",
        "few_shot",
        "in_process",
        "output",
        "processes",
        "self_tuning",
        "two_colours",
    )
)

_ELSEWHERE = ("tests/actors/test_pool.py", "tests/test_extending.py")  # that start Ray as well


class _FewRaysAtATime(LoadFileScheduling):
    """Deals whole files to the workers, and nearly all that starts Ray to the same one.

    Tests of faults have limits of time, which several Rays on two cores would exceed.
    (pytest-xdist 3.8 has groups for that, which pytest 9.2 does not see.)
    """

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        system = file.startswith("tests/system/") and file not in _ANYWHERE
        return "ray" if system or file in _ELSEWHERE else file


def pytest_xdist_make_scheduler(config, log):
    """What pytest-xdist asks for with each `--dist`."""
    return _FewRaysAtATime(config, log)
