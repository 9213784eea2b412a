"""Batches of a pool with real Ray, waited for with a limit."""

import time

from tests.actors.specs import POOL
from tests.system.command import PATIENCE


def next_batch(source, within=PATIENCE):
    """The next one; actors may have to start first."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        batch = source.next_batch(1.0)
        if batch is not None:
            return batch
    raise AssertionError(f"no batch within {within} s")


def all_answer(source, actors=POOL.actors):
    """Takes batches until so many actors have returned an unroll: they start at their own pace."""
    answered, deadline = set(), time.monotonic() + 120
    while len(answered) < actors:
        assert time.monotonic() < deadline, f"only {sorted(answered)} have answered"
        answered |= {unroll.actor for unroll in next_batch(source)}
