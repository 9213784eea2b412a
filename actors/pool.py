"""The pool of Ray actors; the only file that imports ray."""

import collections
import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax

from actors.server import ServerSpec, UnrollServer
from agents.networks import Params
from agents.trajectory import SourceFailed, Unroll

# Under `uv run`, Ray would zip the current folder and start every worker in a copy of it with an
# environment of its own: seconds for each actor, and a package index on each node. The package is
# installed wherever the cluster's image is, so the hook stays off unless the user sets it to 1.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# The pool drops the outstanding calls of an actor that it replaces; Ray would print their errors.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about GPUs

import ray
import ray.exceptions

_log = logging.getLogger(__name__)

_STORE_BYTES_MIN = 256 * 2**20
_SILENCE_SECONDS = 45.0
_START_SECONDS = 300.0  # for a server's first unroll: process start, imports and compilation


class ClusterUnreachable(Exception):
    """No Ray cluster answers at the configured address."""


class PoolSettings(NamedTuple):
    """How a pool keeps its actors busy. Names are those of the `actors` group."""

    mode: Literal["fast", "strict"]
    actors: int
    unrolls_per_batch: int  # unroll calls that make one batch
    unrolls_in_flight: int  # for each actor: one that plays, the others queued or waiting
    max_bytes_in_flight: int
    unroll_bytes: int  # of one call's answer
    max_policy_lag: int
    unroll_timeout_seconds: float
    max_failures: int
    environment_variables: dict[str, str]


@dataclasses.dataclass
class _Slot:
    """One place in the pool, and the Ray actor that fills it at the moment."""

    index: int
    serial: int
    handle: Any
    failures: int = 0  # in a row, without a finished unroll between them
    answered: bool = False  # whether the actor has returned an unroll yet
    busy_since: float = 0.0  # when its oldest outstanding call could first have started


class _Call(NamedTuple):
    slot: _Slot
    number: int  # in order of issue


class _ProcessGroups:
    """Gives each process that Ray starts on this machine a process group of its own.

    Else a SIGTERM for the group of a training, as `timeout`, shells and batch systems send it,
    ends Ray's node process, and Ray then ends the learner before it has saved its checkpoint.
    Python runs fork hooks in the children of Ray, which gives `subprocess` a `preexec_fn`.
    """

    starting = False

    @classmethod
    def leave(cls) -> None:
        if cls.starting:
            os.setpgid(0, 0)


os.register_at_fork(after_in_child=_ProcessGroups.leave)


def connect(address: str | None, object_store_bytes: int, cpus: int) -> None:
    """Joins a Ray cluster, or starts one on this machine.

    Args:
        address: None starts one here; "auto" or "host:port" joins a running one.
        object_store_bytes: shared memory for unrolls and parameters of a cluster started here.
        cpus: actors that must find room on a cluster started here.

    Raises:
        ClusterUnreachable: nothing answers at the address.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClusterUnreachable(str(error).splitlines()[0]) from error
        return
    _ProcessGroups.starting = True
    try:
        ray.init(
            address="local",  # not some other job's cluster that happens to run here
            include_dashboard=False,
            num_cpus=max(cpus, os.cpu_count() or 1),
            object_store_memory=max(_STORE_BYTES_MIN, object_store_bytes),
            **quiet,
        )
    finally:
        _ProcessGroups.starting = False


def disconnect() -> None:
    """Leaves the cluster; ends it and all its processes if `connect` started it."""
    ray.shutdown()


class RaySource:
    """Experience from Ray actors, pulled: see `ExperienceSource` in learner/loop.py.

    Each actor has a bounded number of unroll calls outstanding, and a finished unroll counts as
    outstanding until a batch takes it; so slow learning holds the actors back by itself. A failed
    actor is replaced by one with streams of its own; the same place failing `max_failures` times
    in a row ends the run with the actor's own error.

    `fast` takes whichever unroll is ready first, played with the newest parameters at the time
    its call was made. `strict` plays batch b with the parameters of update b - 1, each call by the
    actor whose turn it is: a policy lag of exactly one, and learning curves that do not depend on
    how fast the machine is.
    """

    def __init__(self, spec: ServerSpec, settings: PoolSettings, *, first_serial: int) -> None:
        """Creates the actors; they start up while the learner compiles.

        Args:
            spec: of every server.
            settings: of the pool.
            first_serial: servers are numbered from here; later starts of a run use other numbers.
        """
        self._spec, self._settings = spec, settings
        self._next_serial = first_serial
        self._actor_class = ray.remote(
            num_cpus=1,
            max_restarts=0,
            runtime_env={"env_vars": settings.environment_variables},
        )(UnrollServer)
        self._slots = [self._start(index) for index in range(settings.actors)]
        self._calls: dict[Any, _Call] = {}  # by object reference, in order of issue
        self._issued = 0
        self._batch: list[Unroll] = []  # what a batch has so far
        self._params: tuple[Any, int] | None = None  # object reference and version
        # Published since; the newest is perhaps still being computed, the one before it is not.
        self._pending: list[tuple[Params, int]] = []
        self._restarts = 0
        self._silent_since: float | None = time.monotonic()  # until the first unroll or warning
        self._dropped = 0

    def publish(self, params: Params, version: int) -> None:
        """See `ExperienceSource`.

        In fast mode they travel when an unroll next needs them. In strict mode the calls that need
        exactly this version are made here, so the step that computes it is waited for.
        """
        if self._settings.mode == "strict":
            self._put(params, version)
            self._issue_strict(version)
        elif self._params is None:
            self._put(params, version)
        else:
            self._pending = [*self._pending, (params, version)][-2:]

    def next_batch(self, timeout_seconds: float) -> list[Unroll] | None:
        """See `ExperienceSource`."""
        deadline = time.monotonic() + timeout_seconds
        self._replace_hung()
        while len(self._batch) < self._settings.unrolls_per_batch:
            if self._settings.mode == "fast":
                self._issue_fast()
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                self._warn_if_silent()
                return None
            self._collect(remaining)
        batch, self._batch = self._batch, []
        if self._settings.mode == "fast":
            self._issue_fast()
        return batch

    def statistics(self) -> Mapping[str, float]:
        """See `ExperienceSource`."""
        return {
            "actors/alive": sum(slot.answered for slot in self._slots),
            "actors/restarts": self._restarts,
            "actors/dropped": self._dropped,
            "actors/in_flight": len(self._calls),
            "actors/in_flight_bytes": len(self._calls) * self._settings.unroll_bytes,
        }

    def close(self) -> None:
        """See `ExperienceSource`. Kills the actors; the cluster stays."""
        for slot in self._slots:
            ray.kill(slot.handle)
        self._slots = []
        self._calls.clear()

    # --- parameters ---------------------------------------------------------------------------

    def _put(self, params: Params, version: int) -> None:
        self._params = ray.put(jax.device_get(params)), version

    def _newest(self) -> tuple[Any, int]:
        """The newest parameters that exist already; each version is put into the store once."""
        for position in reversed(range(len(self._pending))):
            params, version = self._pending[position]
            if all(leaf.is_ready() for leaf in jax.tree.leaves(params)):
                self._put(params, version)
                self._pending = self._pending[position + 1 :]
                break
        assert self._params is not None, "publish comes before next_batch"
        return self._params

    # --- calls --------------------------------------------------------------------------------

    def _issue(self, slot: _Slot, number: int, params: Any, version: int) -> None:
        if not any(call.slot is slot for call in self._calls.values()):
            slot.busy_since = time.monotonic()
        reference = slot.handle.unroll.remote(params, version)
        self._calls[reference] = _Call(slot, number)

    def _issue_fast(self) -> None:
        """Gives every actor something to do, within the bounds on unrolls and bytes."""
        outstanding = collections.Counter(call.slot.index for call in self._calls.values())
        for depth in range(self._settings.unrolls_in_flight):
            for slot in self._slots:
                if outstanding[slot.index] == depth and self._has_room():
                    params, version = self._newest()
                    self._issue(slot, self._issued, params, version)
                    self._issued += 1
                    outstanding[slot.index] += 1

    def _has_room(self) -> bool:
        """Whether one more unroll fits; one call is always allowed, or nothing would ever come."""
        held = len(self._calls) + len(self._batch) + 1
        fits = held * self._settings.unroll_bytes <= self._settings.max_bytes_in_flight
        return fits or not self._calls

    def _issue_strict(self, version: int) -> None:
        """Calls for the batch that follows the next one; for both at the very start."""
        batches = 2 if not self._issued else 1
        assert self._params is not None
        for _ in range(batches * self._settings.unrolls_per_batch):
            slot = self._slots[self._issued % len(self._slots)]
            self._issue(slot, self._issued, self._params[0], version)
            self._issued += 1

    def _collect(self, timeout_seconds: float) -> None:
        """Waits for one call, the oldest one that is done, and takes its unroll."""
        waiting = list(self._calls)
        if self._settings.mode == "strict":
            waiting = [min(waiting, key=lambda reference: self._calls[reference].number)]
        ready, _ = ray.wait(waiting, num_returns=1, timeout=min(timeout_seconds, 1.0))
        for reference in ready:
            call = self._calls.pop(reference)
            try:
                unroll = ray.get(reference)
            except ray.exceptions.RayError as error:
                self._failed(call, error)
            else:
                self._take(call, unroll)

    def _take(self, call: _Call, unroll: Unroll) -> None:
        slot, self._silent_since = call.slot, None
        slot.failures, slot.answered, slot.busy_since = 0, True, time.monotonic()
        current = self._pending[-1][1] if self._pending else self._current_version()
        if (
            self._settings.mode == "fast"
            and current - unroll.version > self._settings.max_policy_lag
        ):
            self._dropped += 1
            return
        self._batch.append(unroll)

    def _current_version(self) -> int:
        assert self._params is not None
        return self._params[1]

    def _warn_if_silent(self) -> None:
        """Says once why a run may not begin: nobody has room for its actors."""
        if self._silent_since is None or time.monotonic() - self._silent_since < _SILENCE_SECONDS:
            return
        self._silent_since = None
        room = _room(self._settings.actors)
        _log.warning("no actor has answered for %g s: %s", _SILENCE_SECONDS, room)

    # --- faults -------------------------------------------------------------------------------

    def _start(self, index: int) -> _Slot:
        serial = self._next_serial
        self._next_serial += 1
        handle = self._actor_class.remote(self._spec, serial)
        return _Slot(index, serial, handle, busy_since=time.monotonic())

    def _failed(self, call: _Call, error: Exception) -> None:
        slot = call.slot
        slot.failures += 1
        name = f"actor {slot.serial} ({self._spec.environment.game})"
        cause = _cause(error)
        _log.warning("%s failed (%s); failure %d in a row", name, cause, slot.failures)
        if slot.failures >= self._settings.max_failures:
            raise SourceFailed(
                f"{name} failed {slot.failures} times without finishing an unroll: {cause}"
            ) from error
        self._replace(slot, call)

    def _replace(self, slot: _Slot, first: _Call | None = None) -> None:
        """Puts a new server into a slot; in strict mode it takes over the calls of the old one."""
        ray.kill(slot.handle)
        fresh = self._start(slot.index)
        lost = [] if first is None else [first]
        lost.extend(call for call in self._calls.values() if call.slot is slot)
        self._calls = {r: call for r, call in self._calls.items() if call.slot is not slot}
        slot.serial, slot.handle, slot.answered = fresh.serial, fresh.handle, False
        slot.busy_since = time.monotonic()
        self._restarts += 1
        if self._settings.mode == "strict":
            assert self._params is not None
            for call in sorted(lost, key=lambda call: call.number):
                self._issue(slot, call.number, self._params[0], self._params[1])

    def _replace_hung(self) -> None:
        """Replaces actors whose oldest call has taken longer than the limit.

        An answer that merely waits to be taken is none of the actor's fault. An actor that has
        never answered may be waiting for room on the cluster: it does not count as failing while
        others play, unless their order is strict.
        """
        oldest: dict[int, Any] = {}
        for reference, call in self._calls.items():
            oldest.setdefault(call.slot.index, reference)
        for reference in oldest.values():
            slot = self._calls[reference].slot
            limit = self._settings.unroll_timeout_seconds
            limit = limit if slot.answered else max(limit, _START_SECONDS)
            if time.monotonic() - slot.busy_since <= limit:
                continue
            if ray.wait([reference], timeout=0)[0]:
                continue
            if slot.answered:
                error = TimeoutError(f"no unroll within {limit:g} s")
                self._failed(self._calls.pop(reference), error)
            elif self._settings.mode == "fast" and any(other.answered for other in self._slots):
                self._replace(slot)
            else:
                room = _room(self._settings.actors)
                raise SourceFailed(f"actor {slot.serial} has not begun within {limit:g} s: {room}")


def _room(actors: int) -> str:
    """How much the pool asks for and how much there is."""
    total, free = ray.cluster_resources().get("CPU", 0), ray.available_resources().get("CPU", 0)
    return f"the pool asks for {actors} CPUs, the Ray cluster has {total:g}, {free:g} of them free"


def _cause(error: Exception) -> str:
    """The actor's own error in one line: Ray puts it last, below the actor's traceback."""
    remote = isinstance(error, ray.exceptions.RayTaskError) or "creation task" in str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if remote and lines:
        return lines[-1]
    return f"{type(error).__name__}: {(lines or [''])[0]}"
