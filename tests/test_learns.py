"""The whole system learns: Catch, in process and so the same on every machine, three seeds."""

import pytest

from configs.load import load
from learner.loop import Events, LoopSettings, Progress, run
from scripts import build


def _train(seed, name="catch/impala", total_frames=200_000, **keys):
    """Trains in this process; the last line of metrics."""
    overrides = [f"{key}={value}" for key, value in keys.items()]
    config = load(name, [f"seed={seed}", "actors.runtime=in_process", *overrides])
    agent = build.build_agent(config, build.probe_environment(config.env, config.seed))
    playing = build.start_playing(config, agent, starts=0)
    lines = []
    run(
        playing.runtime,
        agent.initial_state,
        Progress(),
        LoopSettings(total_frames, 1e9, 1e9),
        lambda: False,
        Events(lines.append),
    )
    playing.source.close()
    return lines[-1]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.ci) for seed in (1, 2))]
)
def test_catch_is_learned(seed):
    assert _train(seed)["episode_return"] >= 0.9


@pytest.mark.ci
def test_it_is_the_learning_that_does_it():
    """The same run without a policy gradient plays like chance (a random paddle: about -0.6)."""
    assert _train(0, **{"agent.policy_cost": 0})["episode_return"] < 0


BAD_START = {"agent.discount": 0.3, "agent.entropy_cost": 0.5, "meta.upper.entropy_cost": 1}


@pytest.mark.ci
@pytest.mark.parametrize("algorithm", [pytest.param("stacx", marks=pytest.mark.slow), "bmg"])
def test_bad_hyperparameters_are_repaired(algorithm):
    """The fast version of docs/results/catch_repair: discount 0.3, entropy cost 0.5 at the start.

    A random paddle scores -0.6, an agent that keeps these values at most about 0.3.
    """
    stuck = _train(0, **BAD_START)["episode_return"]
    repaired = _train(0, f"catch/{algorithm}", **BAD_START)
    assert repaired["meta/discount"] > 0.9
    assert repaired["meta/entropy_cost"] < 0.4
    assert repaired["episode_return"] > stuck + 0.3
