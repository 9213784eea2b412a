"""The pool with real Ray: order, lag, bounds, and actors that fail, hang or are killed."""

import itertools
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
import ray

from actors import pool as pool_module
from actors.cluster import connect, disconnect
from actors.environments.vector import EnvironmentSpec
from actors.in_process import InProcessSource
from actors.pool import RaySource, Slot, Turns
from agents.networks import make_network
from agents.trajectory import SourceFailed
from tests.actors.batches import all_answer, next_batch
from tests.actors.specs import CATCH, POOL, gymnasium_spec, server_spec

PARAMS = make_network("shallow", 3, (50,), np.uint8).init(jax.random.key(0))
_STRANGER = """
import sys
from ray._raylet import GcsClient
assert GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None) is not None
"""
COUNTING = make_network("shallow", 4, (3,), np.float32).init(jax.random.key(0))


@pytest.fixture(scope="module", autouse=True)
def _ray():
    connect(None, 0, 4)
    yield
    disconnect()


@pytest.mark.ci
def test_no_stranger_can_call_what_ray_listens_with(pool):
    """Its servers listen on this machine alone, and want the token that only its processes have."""
    source = pool()
    source.publish(PARAMS, 0)
    next_batch(source)
    ours = psutil.Process()
    listening = {
        (process.name(), connection.laddr.ip.removeprefix("::ffff:"))
        for process in [ours, *ours.children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {name for name, _ in listening} >= {"gcs_server", "raylet"}
    assert {where for _, where in listening} <= {"127.0.0.1", "::1"}, listening
    address = ray.get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:")
    with_token = dict(os.environ)
    without = {k: v for k, v in with_token.items() if k != "RAY_AUTH_TOKEN"}
    for environment, known in (
        (with_token, True),
        ({**without, "RAY_AUTH_TOKEN": "0" * 64}, False),
        ({**without, "RAY_AUTH_MODE": "disabled"}, False),
    ):
        asked = subprocess.run(
            [sys.executable, "-c", _STRANGER, address],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (asked.returncode == 0) == known, asked.stderr
        assert known or "nauthenticated" in asked.stderr, asked.stderr


@pytest.fixture
def pool():
    """Makes sources and closes them."""
    sources = []

    def make(environment: EnvironmentSpec = CATCH, **settings):
        settings = POOL._replace(**settings)
        source = RaySource(server_spec(environment), settings, itertools.count())
        sources.append(source)
        return source

    yield make
    for source in sources:
        source.close()


def _pid(slot):
    return ray.get(slot.handle.__ray_call__.remote(lambda server: os.getpid()))


@pytest.mark.ci
def test_parameters_still_being_computed_do_not_hold_back_those_before_them(pool):
    """A learner that never waits for experience always publishes a copy that is not ready yet."""
    source = pool(actors=1, unrolls_per_batch=1, unrolls_in_flight=1)
    source.publish(PARAMS, 0)
    next_batch(source)  # and the next call is made, with these parameters
    source.publish(PARAMS, 1)

    @jax.jit
    def slowly(x):
        return jax.lax.fori_loop(0, 4000, lambda i, y: jnp.tanh(y @ x), x)

    late = slowly(jnp.full((400, 400), 1e-3))[0, 0]
    published = jax.tree.map(lambda x: x + 0 * late, PARAMS)
    source.publish(published, 2)
    versions = [next_batch(source)[0].version for _ in range(2)]
    assert not late.is_ready()
    assert versions == [0, 1]
    jax.block_until_ready(published)
    assert [next_batch(source)[0].version for _ in range(2)][-1] == 2


def test_strict_has_a_lag_of_one_and_equals_in_process_bit_for_bit(pool):
    """Parameters change at each update, so a batch played with the wrong ones would differ."""
    spec = server_spec(CATCH)
    sources = [
        pool(mode="strict"),
        InProcessSource(spec, itertools.count(), count=2, unrolls_per_batch=2),
    ]
    batches = [[], []]
    for version in range(6):
        params = jax.tree.map(lambda x, v=version: x * (1 + v), PARAMS)
        for source, seen in zip(sources, batches, strict=True):
            source.publish(params, version)
            seen.append(next_batch(source))
    for version, (ray_batch, own) in enumerate(zip(*batches, strict=True)):
        for a, b in zip(ray_batch, own, strict=True):
            assert a.version == b.version == max(0, version - 1)
            assert a.actor == b.actor
            assert a.episodes == b.episodes
            jax.tree.map(np.testing.assert_array_equal, a.trajectory, b.trajectory)


@pytest.mark.ci
@pytest.mark.parametrize("many", [0, pool_module._MANY])
def test_fast_hands_out_the_newest_parameters_and_bounds_what_is_outstanding(
    pool, monkeypatch, many
):
    """Whether Ray is asked for one answer or for all of them."""
    monkeypatch.setattr(pool_module, "_MANY", many)
    source = pool()
    source.publish(PARAMS, 0)
    for version in range(1, 8):
        batch = next_batch(source)
        assert len(batch) == 2
        assert source.statistics()["actors/in_flight"] <= 4
        assert all(unroll.version < version for unroll in batch)
        source.publish(PARAMS, version)
    all_answer(source)
    versions = [unroll.version for _ in range(6) for unroll in next_batch(source)]
    assert versions.count(7) >= 12 - 4  # four calls may have been outstanding when 7 was published


def test_turns_go_to_whoever_has_the_fewest_calls_and_waits_longest():
    slots = [Slot(index, start_at=0.0, node="here") for index in range(3)]
    turns = Turns(2)
    for slot in slots:
        turns.put(slot)
    order = []
    while (slot := turns.first()) is not None:
        order.append(slot.index)
        slot.outstanding += 1
        turns.put(slot)
    assert order == [0, 1, 2, 0, 1, 2]
    for slot in (slots[1], slots[0]):  # in the order of their answers
        slot.outstanding -= 1
        turns.put(slot)
    slots[1].node = None
    turns.put(slots[1])
    assert turns.first() is slots[0]


@pytest.mark.ci
def test_bytes_in_flight_are_bounded(pool):
    source = pool(max_bytes_in_flight=1)
    source.publish(PARAMS, 0)
    next_batch(source)
    for _ in range(3):
        assert source.statistics()["actors/in_flight"] <= 1
        next_batch(source)


@pytest.mark.ci
def test_old_unrolls_are_dropped_and_counted(pool):
    source = pool(max_policy_lag=2)
    source.publish(PARAMS, 0)
    next_batch(source)
    time.sleep(2.0)  # both actors finish what they were asked for with version 0
    source.publish(PARAMS, 9)
    batch = next_batch(source)
    assert all(unroll.version == 9 for unroll in batch)
    assert source.statistics()["actors/dropped"] >= 2


def test_a_killed_worker_is_replaced_and_batches_go_on(pool):
    source = pool()
    source.publish(PARAMS, 0)
    all_answer(source)
    names = set()
    os.kill(_pid(source._slots[0]), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while "actor 2 (catch)" not in names and time.monotonic() < deadline:
        names |= {unroll.actor for unroll in next_batch(source)}
    assert "actor 2 (catch)" in names
    assert source.statistics()["actors/restarts"] == 1
    assert source.statistics()["actors/alive"] == 2


@pytest.mark.ci
def test_a_killed_worker_does_not_stop_strict_mode(pool):
    source = pool(mode="strict")
    source.publish(PARAMS, 0)
    next_batch(source)
    os.kill(_pid(source._slots[1]), signal.SIGKILL)
    for version in range(1, 5):
        source.publish(PARAMS, version)
        assert len(next_batch(source)) == 2
    assert source.statistics()["actors/restarts"] >= 1


@pytest.mark.ci
def test_an_environment_that_raises_now_and_then_is_replaced(pool):
    """Every server's environments raise in their 30th step, in the sixth of its unrolls."""
    source = pool(gymnasium_spec("Raising"))
    source.publish(COUNTING, 0)
    for _ in range(8):  # 16 unrolls take four servers
        assert len(next_batch(source)) == 2
    assert source.statistics()["actors/restarts"] >= 2


@pytest.mark.ci
def test_an_environment_that_always_raises_ends_the_run_with_its_own_error(pool):
    source = pool(gymnasium_spec("Raising"), max_failures=1)
    source.publish(COUNTING, 0)
    with pytest.raises(SourceFailed, match=r"actor \d+ \(.*Raising-v0\) .* joystick is broken"):
        [next_batch(source) for _ in range(10)]


@pytest.mark.slow
def test_processes_that_die_in_a_row_end_the_run_later_than_errors_do(pool):
    """Chance may kill one place twice before it has played; a crash below Python goes on."""
    source = pool(gymnasium_spec("Crashing"), max_failures=1)
    source.publish(COUNTING, 0)
    with pytest.raises(SourceFailed, match=r"Crashing-v0\) failed 3 times .* ActorDiedError"):
        next_batch(source, within=120)


@pytest.mark.ci
def test_an_environment_that_hangs_is_replaced(pool):
    source = pool(gymnasium_spec("Sleeping"), unroll_timeout_seconds=3.0)
    source.publish(COUNTING, 0)
    for _ in range(6):  # 12 unrolls take three servers
        next_batch(source)
    assert source.statistics()["actors/restarts"] >= 1


@pytest.mark.ci
def test_a_learner_that_pauses_does_not_take_its_actors_for_hung(pool):
    """Answers that wait to be taken are as good as new ones."""
    source = pool(unroll_timeout_seconds=2.0)
    source.publish(PARAMS, 0)
    all_answer(source)
    time.sleep(5.0)
    next_batch(source)
    assert source.statistics()["actors/restarts"] == 0


@pytest.mark.ci
def test_actors_without_room_do_not_hold_up_the_others(pool, monkeypatch):
    """Six actors on four CPUs: the run goes on with four; were there none, it would end."""
    source = pool(actors=6, unroll_timeout_seconds=10.0)
    source.publish(PARAMS, 0)
    all_answer(source, actors=4)
    monkeypatch.setattr(pool_module, "_START_SECONDS", 10.0)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        assert len(next_batch(source)) == 2
    assert source.statistics()["actors/alive"] == 4
    assert source.statistics()["actors/waiting"] == 2
    assert source.statistics()["actors/restarts"] == 0  # asking again for room is no failure
    starved = pool(actors=1, unroll_timeout_seconds=10.0)
    starved.publish(PARAMS, 0)
    with pytest.raises(SourceFailed, match=r"asks for 1 CPU \(0 of 4 free\)"):
        next_batch(starved, within=60)


@pytest.mark.ci
def test_an_environment_that_cannot_be_made_ends_the_run(pool):
    source = pool(gymnasium_spec("Stuck"), max_failures=2)
    source.publish(COUNTING, 0)
    with pytest.raises(SourceFailed, match=r"Stuck-v0.* the cartridge is dirty$"):
        next_batch(source)
