"""What cannot fit into this machine's memory is refused; whatever can is not."""

import psutil
import pytest

from configs.load import ConfigError, load, named_configs
from scripts import build, memory, on_device
from scripts.check import check


def _check(source, overrides=()):
    config = load(source, overrides)
    check(config)
    if config.actors.on_device:
        environment = on_device.build_environment(config.env)
        algorithm = on_device.build_algorithm(config, environment)
        memory.check_on_device(config, environment, algorithm)
    else:
        probe = build.probe_environment(config.env, config.seed)
        memory.check_memory(config, probe, build.build_agent(config, probe).network)


# Tasks are built in test_few_shot.py; ablations are as large as atari/bmg.
_GAMES = [n for n in named_configs() if not n.startswith(("ablations/", "few_shot/"))]


@pytest.mark.parametrize("name", _GAMES)
def test_shipped_configurations_fit(name):
    _check(name)


@pytest.mark.parametrize(
    ("source", "overrides", "parts"),
    [
        ("catch/impala", ["learner.unroll_length=1e9"], ["learner.unroll_length=1000000000"]),
        ("catch/impala", ["learner.batch_size=1e9"], ["learner.batch_size=1000000000", "batches"]),
        ("catch/impala", ["actors.count=100000"], ["actors.count=100000", "actors 6,250.2 GiB"]),
        (
            "catch/impala",
            ["actors.unrolls_in_flight=1e9", "actors.max_bytes_in_flight=1e15"],
            ["actors.max_bytes_in_flight=1000000000000000", "object store"],
        ),
        ("catch/bmg", ["meta.bootstrap_steps=1e9"], ["meta.bootstrap_steps=1000000000"]),
        ("catch/bmg", ["meta.inner_steps=1e9"], ["meta.inner_steps=1000000000"]),
        (
            "atari/bmg",
            ["replay.max_bytes=1e15", "total_frames=1e12"],
            ["replay.max_bytes=1000000000000000", "replay"],
        ),
        ("atari/impala", ["learner.batch_size=1e6", "actors.envs_per_actor=10000"], ["batches"]),
        (
            "atari/impala",
            ["actors.runtime=in_process", "actors.count=10000", "actors.envs_per_actor=32"],
            ["actors.count=10000"],
        ),
        ("catch/impala", ["learner.unroll_length=1e6"], ["learner.unroll_length", "activations"]),
        ("minatar/impala", ["learner.unroll_length=1e6"], ["learner.unroll_length", "activations"]),
        ("two_colours/bmg", ["meta.inner_steps=1e6"], ["meta.inner_steps=1000000", "activations"]),
        ("two_colours/bmg", ["learner.unroll_length=1e9"], ["learner.unroll_length=1000000000"]),
        ("two_colours/bmg", ["meta.hidden=[100000,1000000]"], ["meta.hidden=[100000, 1000000]"]),
        ("two_colours/q_lambda_bmg", ["meta.bootstrap_steps=1e9"], ["meta.bootstrap_steps=100000"]),
    ],
)
def test_what_cannot_fit_is_refused_with_the_sum(source, overrides, parts):
    with pytest.raises(ConfigError) as caught:
        _check(source, overrides)
    message = str(caught.value)
    assert " GiB of memory (" in message
    assert f"this machine has {memory.memory_bytes() / 2**30:,.1f} GiB" in message or (
        "object store" in message
    )
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("source", "overrides"),
    [
        # Bounds that are never reached.
        ("catch/impala", ["actors.max_bytes_in_flight=1e15"]),
        ("catch/bmg", ["meta.bootstrap_steps=2", "replay.max_bytes=1e15", "total_frames=1e5"]),
        ("catch/impala", ["replay.max_bytes=1e15"]),
        ("catch/impala", ["actors.count=100000", "actors.runtime=in_process"]),
    ],
)
def test_what_may_fit_is_not_refused(source, overrides):
    _check(source, overrides)


def test_the_memory_of_this_machine():
    assert (
        2**28
        < memory.memory_bytes()
        <= (psutil.virtual_memory().total + psutil.swap_memory().total)
    )
