"""The pool of Ray actors: calls in flight, parameters, replacement of actors that fail."""

import collections
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax

from actors.cluster import Resources, describe_room, exceptions, head, ray
from actors.ray_address import listens
from actors.server import ServerSpec, UnrollServer
from agents.networks import Params
from agents.trajectory import SourceFailed, Unroll

_log = logging.getLogger(__name__)

_SILENCE_SECONDS = 45.0
_START_SECONDS = 300.0  # for a server's first unroll: process start, imports and compilation
_FETCH_SECONDS = 60.0  # for an answer that Ray has announced
_HEAD_LOOK_SECONDS = 5.0  # between two looks at the cluster's head
_HEADLESS_SECONDS = 20.0  # without one; Ray itself ends this process after 60, and nothing is saved
_MANY = 32  # calls in flight, with fewer of which asking twice costs more than it spares
_LOOK_SECONDS = 0.1  # between two looks at who is starting, hanging or may be started again
# A failed actor is replaced after so long, and after twice the time with each failure in a row.
_BACK_OFF_SECONDS = 0.5
_BACK_OFF_SECONDS_MAX = 60.0
# A process that was killed says nothing of its code, and where many are killed, chance hits one
# place several times before it has played; a crash below Python has to end the run all the same.
_DEATHS_FOR_A_FAILURE = 3


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
    resources: Resources = Resources(1.0, 0, 0.0)


@dataclasses.dataclass
class Slot:
    """One place in the pool, and the Ray actor that fills it at the moment.

    It is backing off (no handle), starting (a handle, no node) or playing. Ray starts an actor when
    some node has room for it, so a pool can be larger than its cluster, and grows with it.
    """

    index: int
    start_at: float  # when its next actor may be started
    serial: int = -1
    handle: Any = None
    asked_at: float = 0.0  # when Ray was asked for the actor
    node: str | None = None  # where it plays
    answered: bool = False  # whether the actor has returned an unroll yet
    errors: int = 0  # of its own, in a row, without a finished unroll between them
    deaths: int = 0  # likewise, of its process
    busy_since: float = 0.0  # when its oldest outstanding call could first have started
    outstanding: int = 0  # calls made of it, whose unrolls were not taken yet
    owed: list["_Call"] = dataclasses.field(default_factory=list)  # to be made when it plays


class Turns:
    """Who may be called next: of the playing slots those with the fewest calls outstanding.

    Among equals it is the one that waits longest. Each operation takes the same time for a
    thousand slots as for ten.
    """

    def __init__(self, most: int) -> None:
        """`most` calls may be outstanding of a slot."""
        self._waiting: list[dict[int, Slot]] = [{} for _ in range(most)]  # by calls outstanding

    def put(self, slot: Slot) -> None:
        """Notes how many calls a slot has outstanding, or that it does not play."""
        self.remove(slot)
        if slot.node is not None and slot.outstanding < len(self._waiting):
            self._waiting[slot.outstanding][slot.index] = slot

    def remove(self, slot: Slot) -> None:
        """Takes a slot out of the line."""
        for waiting in self._waiting:
            waiting.pop(slot.index, None)

    def first(self) -> Slot | None:
        """Who is next; None: nobody may be called."""
        return next((next(iter(w.values())) for w in self._waiting if w), None)


class _Call(NamedTuple):
    slot: Slot
    number: int  # in order of issue
    params: Any  # object reference
    version: int


def _node_of(server: UnrollServer) -> str:
    """Runs in the actor, once its server is made."""
    del server
    return ray.get_runtime_context().get_node_id()


class RaySource:
    """Experience from Ray actors, pulled: see `ExperienceSource` in learner/loop.py.

    Each actor has a bounded number of unroll calls outstanding, and a finished unroll counts as
    outstanding until a batch takes it; so slow learning holds the actors back by itself. A failed
    actor is replaced, after a while that grows with each failure in a row, by one with streams of
    its own; the same place failing `max_failures` times in a row ends the run with the actor's own
    error; a process that dies counts for a third of a failure. Actors for which no node has room
    wait until one has, and the others play on.

    `fast` takes whichever unroll is ready first, played with the newest parameters at the time
    its call was made. `strict` plays batch b with the parameters of update b - 1, each call by the
    actor whose turn it is: a policy lag of exactly one, and learning curves that do not depend on
    how fast the machine is.
    """

    def __init__(self, spec: ServerSpec, settings: PoolSettings, serials: Iterator[int]) -> None:
        """Creates the actors; they start up while the learner compiles.

        Args:
            spec: of every server.
            settings: of the pool.
            serials: of the servers in order of their start; later starts of a run use others.
        """
        self._spec, self._settings = spec, settings
        self._serials = serials
        each = settings.resources
        self._actor_class = ray.remote(
            num_cpus=each.cpus,
            num_gpus=each.gpus,
            memory=each.memory_bytes,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": settings.environment_variables},
        )(UnrollServer)
        self._slots = [Slot(index, start_at=0.0) for index in range(settings.actors)]
        self._starting: dict[Any, Slot] = {}  # by reference to the node's name
        for slot in self._slots:
            self._start(slot)
        self._turns = Turns(settings.unrolls_in_flight)  # in fast mode
        self._calls: dict[Any, _Call] = {}  # by object reference, in order of issue
        self._numbers: dict[int, Any] = {}  # their references by number
        self._done: collections.deque[Any] = collections.deque()  # of them, not looked at yet
        self._issued = self._taken = 0
        self._batch: list[Unroll] = []  # what a batch has so far
        self._params: tuple[Any, int] | None = None  # object reference and version
        # Published since; the newest is perhaps still being computed, the one before it is not.
        self._pending: list[tuple[Params, int]] = []
        self._counts = collections.Counter(
            {name: 0 for name in ("restarts", "dropped", "lost", "received", "published")}
        )
        self._looked_at = self._head_looked_at = 0.0
        self._headless_since: float | None = None
        self._silent_since: float | None = time.monotonic()  # None: since a warning
        self._without_players_since: float | None = time.monotonic()

    def publish(self, params: Params, version: int) -> None:
        """See `ExperienceSource`.

        In fast mode they travel when an unroll next needs them. In strict mode the calls that need
        exactly this version are made here, so the step that computes it is waited for.
        """
        if self._settings.mode == "strict":
            self._put(params, version)
            self._call_strict()
        elif self._params is None:
            self._put(params, version)
        else:
            self._pending = [*self._pending, (params, version)][-2:]

    def next_batch(self, timeout_seconds: float) -> list[Unroll] | None:
        """See `ExperienceSource`."""
        deadline = time.monotonic() + timeout_seconds
        self._look_after_slots()
        while len(self._batch) < self._settings.unrolls_per_batch:
            if self._settings.mode == "fast":
                self._call_fast()
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                self._warn_if_silent()
                return None
            self._collect(min(remaining, 1.0))
            self._look_after_slots()
        batch, self._batch = self._batch, []
        if self._settings.mode == "fast":
            self._call_fast()
        return batch

    def statistics(self) -> Mapping[str, float]:
        """See `ExperienceSource`."""
        playing = [slot for slot in self._slots if slot.node is not None]
        return {
            "actors/alive": len(playing),
            "actors/waiting": len(self._slots) - len(playing),
            "actors/nodes": len({slot.node for slot in playing}),
            "actors/restarts": self._counts["restarts"],
            "actors/dropped": self._counts["dropped"],
            "actors/lost": self._counts["lost"],
            "actors/in_flight": len(self._calls),
            "actors/in_flight_bytes": len(self._calls) * self._settings.unroll_bytes,
            "actors/received_bytes": self._counts["received"],
            "actors/published_bytes": self._counts["published"],
        }

    def save(self) -> None:
        """See `ExperienceSource`: what plays elsewhere is not saved."""

    def close(self) -> None:
        """See `ExperienceSource`. Kills the actors; the cluster stays."""
        for slot in self._slots:
            if slot.handle is not None:
                ray.kill(slot.handle)
        self._slots = []
        self._calls.clear()
        self._numbers.clear()
        self._starting.clear()

    # --- parameters ---------------------------------------------------------------------------

    def _put(self, params: Params, version: int) -> None:
        arrays = jax.device_get(params)
        self._params = ray.put(arrays), version
        self._counts["published"] += _bytes(arrays)

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

    def _current_version(self) -> int:
        if self._pending:
            return self._pending[-1][1]
        assert self._params is not None
        return self._params[1]

    # --- calls --------------------------------------------------------------------------------

    def _call_fast(self) -> None:
        """Gives every actor something to do, within the bounds on unrolls and bytes."""
        while (slot := self._turns.first()) is not None and self._has_room():
            self._call(slot, *self._newest())

    def _has_room(self) -> bool:
        """Whether one more unroll fits; one call is always allowed, or nothing would ever come."""
        held = len(self._calls) + len(self._batch) + 1
        fits = held * self._settings.unroll_bytes <= self._settings.max_bytes_in_flight
        return fits or not self._calls

    def _call_strict(self) -> None:
        """Calls for the batch that follows the next one; for both at the very start."""
        batches = 2 if not self._issued else 1
        assert self._params is not None
        for _ in range(batches * self._settings.unrolls_per_batch):
            self._call(self._slots[self._issued % len(self._slots)], *self._params)

    def _call(self, slot: Slot, params: Any, version: int) -> None:
        self._issue(_Call(slot, self._issued, params, version))
        self._issued += 1

    def _issue(self, call: _Call) -> None:
        """Makes a call, or keeps it for when its actor plays."""
        slot = call.slot
        if slot.node is None:
            slot.owed.append(call)
            return
        if not slot.outstanding:
            slot.busy_since = time.monotonic()
        reference = slot.handle.unroll.remote(call.params, call.version)
        self._calls[reference] = call
        self._numbers[call.number] = reference
        self._outstanding(slot, 1)

    def _outstanding(self, slot: Slot, change: int) -> None:
        slot.outstanding += change
        self._turns.put(slot)

    def _pop(self, reference: Any) -> _Call:
        """Ends a call that is answered, or never will be."""
        call = self._calls.pop(reference)
        del self._numbers[call.number]
        self._outstanding(call.slot, -1)
        return call

    def _collect(self, timeout_seconds: float) -> None:
        """Waits for one call, the oldest one that is done, and takes its unroll."""
        reference = self._answered(timeout_seconds)
        if reference is None:
            return
        if reference in self._starting:
            self._admit(reference)
            return
        call = self._pop(reference)
        try:
            unroll: Any = ray.get(reference, timeout=_FETCH_SECONDS)
        except (exceptions.ObjectLostError, exceptions.GetTimeoutError) as error:
            self._lost(call, error)
        except exceptions.RayError as error:
            self._failed(call.slot, error, call)
        else:
            self._take(call, unroll)

    def _answered(self, timeout_seconds: float) -> Any:
        """The reference of the oldest call that is done, or of a start; None: of none in time.

        To ask Ray takes longer the more references it is asked about. So of many calls all that
        are done are kept, and it is asked again when none is left.
        """
        while self._done:
            if (reference := self._done.popleft()) in self._calls:  # its slot was not emptied
                return reference
        waiting = self._awaited()
        if not waiting:  # everyone backs off
            time.sleep(min(timeout_seconds, _LOOK_SECONDS))
            return None
        if self._settings.mode == "fast" and len(self._calls) > _MANY:
            self._done.extend(ray.wait(waiting, num_returns=len(waiting), timeout=0)[0])
            if self._done:
                return self._done.popleft()
        ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout_seconds)
        return ready[0] if ready else None

    def _awaited(self) -> list[Any]:
        """What must be answered next: any call, in strict mode the oldest; else any start."""
        if self._settings.mode == "fast":
            return list(self._calls) or list(self._starting)
        if self._taken in self._numbers:
            return [self._numbers[self._taken]]
        # Its actor has not begun, or it is owed by the next one in that place.
        owing = {call.number: slot for slot in self._slots for call in slot.owed}[self._taken]
        return [reference for reference, slot in self._starting.items() if slot is owing]

    def _take(self, call: _Call, unroll: Unroll) -> None:
        slot, self._silent_since = call.slot, time.monotonic()
        self._taken += 1
        slot.errors, slot.deaths = 0, 0
        slot.answered, slot.busy_since = True, time.monotonic()
        self._counts["received"] += _bytes(unroll.trajectory)
        lag = self._current_version() - unroll.version
        if self._settings.mode == "fast" and lag > self._settings.max_policy_lag:
            self._counts["dropped"] += 1
            return
        self._batch.append(unroll)

    def _lost(self, call: _Call, error: Exception) -> None:
        """An unroll that was played and is gone, with its node's store, say. Its actor plays on."""
        self._counts["lost"] += 1
        _log.warning("an unroll of %s was lost (%s)", self._name(call.slot), _cause(error))
        if self._settings.mode == "strict":
            self._issue(call)

    def _warn_if_silent(self) -> None:
        """Says once why a run may not begin, for want of room, say, or that it stands still."""
        first = self._taken == 0
        limit = max(_SILENCE_SECONDS, 0.0 if first else self._settings.unroll_timeout_seconds)
        if self._silent_since is None or time.monotonic() - self._silent_since < limit:
            return
        self._silent_since = None
        # Later a cluster may hang, or have lost its head: not to be asked.
        room = f": {self._room()}" if first else ""
        _log.warning("no actor has answered for %g s%s", limit, room)

    # --- actors -------------------------------------------------------------------------------

    def _look_after_slots(self) -> None:
        """Starts who may start, takes in who has started, replaces who hangs."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        due = [slot for slot in self._slots if slot.handle is None and now >= slot.start_at]
        if self._has_head(now, at_once=bool(due)):
            for slot in due:
                self._start(slot)
        starting = list(self._starting)
        if starting:
            made, _ = ray.wait(starting, num_returns=len(starting), timeout=0)
            for reference in made:
                self._admit(reference)
        self._require_players(now)
        self._replace_hung(now)

    def _has_head(self, now: float, *, at_once: bool) -> bool:
        """Whether the cluster has its head, without which asking for an actor would never return.

        Where Ray keeps the head's state elsewhere, another one may take its place.

        Args:
            now: on the monotonic clock.
            at_once: looks, however long ago it was looked at.

        Raises:
            SourceFailed: there has been none for long, and there is time for a checkpoint.
        """
        if at_once or now - self._head_looked_at >= _HEAD_LOOK_SECONDS:
            self._head_looked_at = now
            if listens(head()):
                self._headless_since = None
            elif self._headless_since is None:
                self._headless_since = now
            elif now - self._headless_since >= _HEADLESS_SECONDS:
                raise SourceFailed(f"Ray's head (gcs_server) at {head()} is gone")
        return self._headless_since is None

    def _start(self, slot: Slot) -> None:
        slot.serial = next(self._serials)
        slot.handle = self._actor_class.remote(self._spec, slot.serial)
        slot.asked_at = time.monotonic()
        self._starting[slot.handle.__ray_call__.remote(_node_of)] = slot

    def _admit(self, reference: Any) -> None:
        """Gives work to an actor whose server is made, or sees why it could not be."""
        slot = self._starting.pop(reference)
        try:
            slot.node = ray.get(reference, timeout=_FETCH_SECONDS)
        except exceptions.RayError as error:
            self._failed(slot, error)
            return
        self._turns.put(slot)
        owed, slot.owed = slot.owed, []
        for call in owed:
            self._issue(call)

    def _failed(self, slot: Slot, error: Exception, call: _Call | None = None) -> None:
        if _is_death(error):
            slot.deaths += 1
        else:
            slot.errors += 1
        failures, name, cause = slot.errors + slot.deaths, self._name(slot), _cause(error)
        _log.warning("%s failed (%s); failure %d in a row", name, cause, failures)
        if slot.errors + slot.deaths / _DEATHS_FOR_A_FAILURE >= self._settings.max_failures:
            raise SourceFailed(
                f"{name} failed {failures} times without finishing an unroll: {cause}"
            ) from error
        self._counts["restarts"] += 1
        delay = min(_BACK_OFF_SECONDS * 2 ** (failures - 1), _BACK_OFF_SECONDS_MAX)
        self._replace(slot, call, delay)

    def _replace(self, slot: Slot, lost: _Call | None, delay: float) -> None:
        """Empties a slot for a while; in strict mode its next actor takes over all its calls."""
        ray.kill(slot.handle)
        calls = [call for call in self._calls.values() if call.slot is slot] + slot.owed
        if lost is not None:
            calls.append(lost)
        for call in calls:
            self._calls.pop(self._numbers.pop(call.number, None), None)
        slot.outstanding = 0
        self._turns.remove(slot)
        self._starting = {r: other for r, other in self._starting.items() if other is not slot}
        slot.handle, slot.node, slot.answered = None, None, False
        slot.start_at = time.monotonic() + delay
        if self._settings.mode == "strict":
            slot.owed = sorted(calls, key=lambda call: call.number)

    def _require_players(self, now: float) -> None:
        """Ends a run for which nobody has played for too long.

        In fast mode somebody must; in strict mode all must, because each waits for its turn.
        """
        needed = any if self._settings.mode == "fast" else all
        if needed(slot.node is not None for slot in self._slots):
            self._without_players_since = None
        elif self._without_players_since is None:
            self._without_players_since = now
        elif now - self._without_players_since > self._start_limit():
            raise SourceFailed(
                f"no actor has begun to play within {self._start_limit():g} s: {self._room()}"
                if self._settings.mode == "fast"
                else f"some actor has not begun within {self._start_limit():g} s: {self._room()}"
            )

    def _replace_hung(self, now: float) -> None:
        """Replaces actors whose oldest call has taken longer than the limit.

        An answer that merely waits to be taken is none of the actor's fault. An actor that has not
        begun may wait for room on the cluster: asking Ray again for it is no failure.
        """
        for slot in list(self._starting.values()):
            if now - slot.asked_at > self._start_limit():
                _log.info("%s has not begun; asking for it again", self._name(slot))
                self._replace(slot, None, 0.0)
        oldest: dict[int, Any] = {}
        for reference, call in self._calls.items():
            oldest.setdefault(call.slot.index, reference)
        for reference in oldest.values():
            slot = self._calls[reference].slot
            answered = slot.answered
            limit = self._settings.unroll_timeout_seconds if answered else self._start_limit()
            if now - slot.busy_since > limit and not ray.wait([reference], timeout=0)[0]:
                error = TimeoutError(f"no unroll within {limit:g} s")
                self._failed(slot, error, self._pop(reference))

    def _start_limit(self) -> float:
        return max(self._settings.unroll_timeout_seconds, _START_SECONDS)

    def _name(self, slot: Slot) -> str:
        return f"actor {slot.serial} ({self._spec.environment.game})"

    def _room(self) -> str:
        return describe_room(self._settings.actors, self._settings.resources)


def _bytes(arrays: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))


def _in_creation(error: Exception) -> bool:
    """Whether it is the error with which an actor could not be made: Ray says that it died."""
    return "creation task" in str(error)


def _is_death(error: Exception) -> bool:
    """Whether the process ended without an error of the actor's own."""
    return isinstance(error, exceptions.RayActorError) and not _in_creation(error)


def _cause(error: Exception) -> str:
    """The actor's own error in one line: Ray puts it last, below the actor's traceback."""
    remote = isinstance(error, exceptions.RayTaskError) or _in_creation(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if remote and lines:
        return lines[-1]
    return f"{type(error).__name__}: {(lines or [''])[0]}"
