"""Several learner processes that share each batch: joining them, and what they must agree on.

Each process feeds its own devices from actors of its own; one jitted step over all devices learns
from the whole batch, so the processes' parameters are always the same. Whatever decides how the
loop goes on has to be the same as well: it goes through `exchange`.
"""

import atexit
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_JOIN_SECONDS = 300
_SILENCE_SECONDS = 60  # a process that says nothing for so long is dead, and the others end
_LEAVE_SECONDS = 30


def join(coordinator: str, processes: int, index: int) -> None:
    """Makes this process one of several; before JAX looks for devices.

    Args:
        coordinator: host:port, at which the process of index 0 listens.
        processes: how many there are.
        index: of this one, from 0.

    Raises:
        RuntimeError: the others did not come within five minutes.
    """
    jax.distributed.initialize(
        coordinator,
        processes,
        index,
        initialization_timeout=_JOIN_SECONDS,
        heartbeat_timeout_seconds=_SILENCE_SECONDS,
        shutdown_timeout_seconds=_LEAVE_SECONDS,
    )
    atexit.register(jax.distributed.shutdown)


def exchange(values: Sequence[int], running: Any) -> np.ndarray:
    """Everybody's values, [processes, len(values)] int32. All must call it, equally often.

    Args:
        values: of this process.
        running: what the devices compute at the moment. Several processes wait for it: two programs
            that communicate at the same time may hear each other's words on CPUs.
    """
    if jax.process_count() == 1:
        return np.asarray([values], np.int32)
    jax.block_until_ready(running)
    return np.asarray(multihost_utils.process_allgather(np.asarray(values, np.int32)))


def from_first(tree: Any) -> Any:
    """The first process's arrays, for all. All must call it with arrays of the same shapes."""
    return multihost_utils.broadcast_one_to_all(tree, is_source=jax.process_index() == 0)
