"""A bad night, with real Ray: runs that lose workers and nodes learn all their frames."""

import itertools
import os
import re
import signal
import subprocess
import time

import jax
import numpy as np
import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from actors import pool
from actors.cluster import connect, disconnect
from actors.pool import RaySource
from agents.networks import make_network
from agents.trajectory import SourceFailed
from tests.actors.batches import all_answer, next_batch
from tests.actors.specs import POOL, server_spec
from tests.system.checkpoints import last_checkpoint
from tests.system.command import PATIENCE, bmg, read_metrics, read_summary, start, wait_for

# 8 environments x 20 steps a batch; nothing is ever invalid, so frames are exact.
_FRAMES = 160 * 300
_TRAIN = (
    *("train", "catch/impala", "env.suite=gymnasium", "env.reward_clip=0"),
    *("learner.batch_size=8", "actors.envs_per_actor=4", "logging.every_seconds=0.2"),
    *("actors.unroll_timeout_seconds=5", "logging.tensorboard=false"),
)


# Seconds within which each run that loses something has learned all its frames, start-up included.
_BOUND = 150


def _game(name):
    return f"env.game=tests.actors.environments_for_tests:{name}-v0"


def _ends_well(process, folder, frames=_FRAMES, updates=None):
    """The run finishes in time, with all its frames; returns its metrics."""
    _, errors = process.communicate(timeout=_BOUND)
    assert process.returncode == 0, errors
    summary = read_summary(folder)
    assert summary["status"] == "finished"
    assert summary["frames"] == frames
    assert summary["learner_updates"] == (updates or frames // 160)
    return read_metrics(folder)


def _workers(parent):
    """Pids of the actors of a run, which names them itself."""
    children = psutil.Process(parent).children(recursive=True)
    return [p.pid for p in children if "ray::UnrollServer" in " ".join(p.cmdline())]


def _alive(folder, actors, nodes):
    last = (read_metrics(folder) or [{}])[-1]
    return (last.get("actors/alive"), last.get("actors/nodes")) == (actors, nodes)


@pytest.mark.slow
def test_a_ray_that_does_not_start_in_time_is_started_again(tmp_path):
    """As on a machine that is busy with other things; Ray gives itself 30 seconds."""
    folder = tmp_path / "run"
    process = start(*_TRAIN, _game("Endless"), f"total_frames={_FRAMES}", "--run-dir", folder)
    raylets = []

    def suspended():
        children = psutil.Process(process.pid).children(recursive=True)
        raylets.extend(child for child in children if child.name() == "raylet")
        return [raylet.suspend() for raylet in raylets]

    while process.poll() is None and not suspended():  # it has registered within milliseconds
        time.sleep(0.001)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert errors == "bmg: Ray has not started within its 30 seconds; it is started again\n"
    assert not raylets[0].is_running() or raylets[0].status() == psutil.STATUS_ZOMBIE


@pytest.mark.ci
def test_workers_that_are_killed_are_replaced(tmp_path):
    folder = tmp_path / "run"
    process = start(*_TRAIN, _game("Endless"), f"total_frames={_FRAMES}", "--run-dir", folder)
    wait_for(lambda: _alive(folder, 2, 1), what="both actors play")
    os.kill(_workers(process.pid)[0], signal.SIGKILL)
    metrics = _ends_well(process, folder)
    assert metrics[-1]["actors/restarts"] == 1
    assert re.search(r"actor [01] \(", (folder / "log.txt").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("game", "frames"), [("Wearing", 160 * 60), ("Dozing", 160 * 8)])
def test_environments_that_raise_or_hang_are_replaced(tmp_path, game, frames):
    """Every one of them does, again and again; a hanging one costs five seconds."""
    folder = tmp_path / "run"
    process = start(*_TRAIN, _game(game), f"total_frames={frames}", "--run-dir", folder)
    assert _ends_well(process, folder, frames)[-1]["actors/restarts"] >= 1
    reason = "joystick is worn" if game == "Wearing" else "no unroll within 5 s"
    assert reason in (folder / "log.txt").read_text()


@pytest.mark.ci
def test_a_crash_loop_ends_the_run_and_pauses_grow(tmp_path):
    folder = tmp_path / "run"
    began = time.monotonic()
    result = bmg(*_TRAIN, _game("Stuck"), "--run-dir", folder)
    assert result.returncode == 1
    assert "failed 3 times without finishing an unroll: RuntimeError: the cartridge is dirty" in (
        result.stderr
    )
    assert time.monotonic() - began > 0.5 + 1.0


@pytest.fixture
def cluster():
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield nodes
    nodes.shutdown()


@pytest.mark.ci
def test_the_pool_shrinks_and_grows_with_the_cluster(cluster, tmp_path):
    """A node joins, dies with its part of the object store, and another one joins."""
    folder = tmp_path / "run"
    address = f"actors.ray_address={cluster.address}"
    process = start(
        *(*_TRAIN, _game("Endless"), address, "actors.count=3", "total_frames=100000000"),
        *("--run-dir", folder),
    )
    wait_for(lambda: _alive(folder, 1, 1), what="one actor plays, for which there is room")
    node = cluster.add_node(num_cpus=2)
    wait_for(lambda: _alive(folder, 3, 2), what="two more actors play on the new node")
    cluster.remove_node(node, allow_graceful=False)
    wait_for(lambda: _alive(folder, 1, 1), what="the other actor plays on")
    before = read_metrics(folder)[-1]["frames"]
    wait_for(
        lambda: read_metrics(folder)[-1]["frames"] > before + 160 * 20, what="learning goes on"
    )
    cluster.add_node(num_cpus=2)
    wait_for(lambda: _alive(folder, 3, 2), what="the pool grows again")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors
    last = read_metrics(folder)[-1]
    assert last["frames"] == 160 * last["learner_updates"]
    assert last["actors/restarts"] >= 2


@pytest.mark.slow
def test_a_node_that_is_lost_with_its_objects_does_not_stop_the_run(cluster, tmp_path):
    """Two of three actors go with it, and their unrolls, too large to travel without the store."""
    node, folder, updates, steps = cluster.add_node(num_cpus=2), tmp_path / "run", 60, 1_000
    process = start(
        *(*_TRAIN, _game("Endless"), f"actors.ray_address={cluster.address}", "actors.count=3"),
        *(f"learner.unroll_length={steps}", f"total_frames={8 * steps * updates}"),
        *("--run-dir", folder),
    )
    wait_for(lambda: _alive(folder, 3, 2), what="actors play on both nodes")
    cluster.remove_node(node, allow_graceful=False)
    metrics = _ends_well(process, folder, 8 * steps * updates, updates)
    assert metrics[-1]["actors/nodes"] == 1
    assert metrics[-1]["actors/restarts"] >= 1


@pytest.mark.ci
def test_unrolls_that_were_played_and_are_lost_with_their_store_are_played_again(
    cluster, monkeypatch
):
    """All that was asked for waits to be fetched, on two nodes, when one of them dies.

    In strict mode, which goes on in its order once there is room for all of its actors again.
    Then the head dies, and the run ends before Ray ends its process.
    """
    node = cluster.add_node(num_cpus=2)
    connect(cluster.address, object_store_bytes=0, cpus=0)
    settings = POOL._replace(mode="strict", actors=3, unrolls_per_batch=3)
    source = RaySource(server_spec(unroll_length=700), settings, itertools.count())
    try:
        params = make_network("shallow", 3, (50,), np.uint8).init(jax.random.key(0))
        source.publish(params, 0)
        deadline = time.monotonic() + _BOUND
        all_answer(source, 3)
        calls = list(source._calls)
        ray.wait(calls, num_returns=len(calls), fetch_local=False)
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=2)
        for version in range(1, 5):
            source.publish(params, version)
            next_batch(source, within=deadline - time.monotonic())
        assert source.statistics()["actors/lost"] >= 1
        assert source.statistics()["actors/nodes"] == 2
        monkeypatch.setattr(pool, "_HEAD_LOOK_SECONDS", 0.1)
        monkeypatch.setattr(pool, "_HEADLESS_SECONDS", 1.0)
        cluster.head_node.kill_gcs_server()
        with pytest.raises(SourceFailed, match="gcs_server"):
            _learn_on(source, params)
    finally:
        source.close()
        disconnect()


def _learn_on(source, params):
    for version in itertools.count(5):
        source.publish(params, version)
        next_batch(source, within=60)


@pytest.mark.slow
def test_two_jobs_on_one_cluster_do_not_disturb_each_other(cluster, tmp_path):
    """The second one comes, and is killed, while the first one learns."""
    cluster.add_node(num_cpus=2)
    options = (*_TRAIN, _game("Endless"), f"actors.ray_address={cluster.address}")
    first, second = tmp_path / "first", tmp_path / "second"
    long = start(*options, "total_frames=100000000", "--run-dir", first)
    wait_for(lambda: _alive(first, 2, 2), what="the first job's actors play")
    short = start(*options, "actors.count=1", "total_frames=100000000", "--run-dir", second)
    wait_for(lambda: _alive(second, 1, 1), what="the second job's actor plays")
    short.kill()
    short.communicate(timeout=30)
    before = read_metrics(first)[-1]["frames"]
    wait_for(
        lambda: read_metrics(first)[-1]["frames"] > before + 160 * 50, what="the first goes on"
    )
    resumed = bmg(*options, "actors.count=1", "total_frames=1", "--run-dir", second, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    long.send_signal(signal.SIGTERM)
    _, errors = long.communicate(timeout=30)
    assert long.returncode == 143, errors
    last = read_metrics(first)[-1]
    assert last["actors/restarts"] == 0
    assert last["actors/alive"] == 2


@pytest.mark.ci
def test_a_cluster_that_hangs_is_told_and_signals_end_the_run(cluster, tmp_path):
    """Its node process is suspended, which others may do and undo; so the run waits for it."""
    folder, stderr = tmp_path / "run", tmp_path / "stderr"
    with stderr.open("w") as file:
        process = start(
            *(*_TRAIN, _game("Endless"), f"actors.ray_address={cluster.address}"),
            *("actors.count=1", "total_frames=100000000", "--run-dir", folder),
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    wait_for(lambda: _alive(folder, 1, 1), what="an actor plays")
    raylet = cluster.head_node.all_processes["raylet"][0].process
    raylet.send_signal(signal.SIGSTOP)
    try:
        told = f"raylet, {raylet.pid}) is suspended, and the run waits for it; kill -CONT"
        wait_for(lambda: told in stderr.read_text(), 120.0, "the line")
        process.send_signal(signal.SIGTERM)
        # As a rule the main thread is in a call of Ray's that does not come back.
        late = "another signal ends the run at once"
        wait_for(lambda: process.poll() is not None or late in stderr.read_text(), 60.0, "its end")
        process.send_signal(signal.SIGTERM)
        process.wait(60.0)
    finally:
        raylet.send_signal(signal.SIGCONT)
    assert process.returncode == 143, stderr.read_text()
    assert "Traceback" not in stderr.read_text()
    assert read_summary(folder)["status"] == "interrupted"
    last_checkpoint(folder)
