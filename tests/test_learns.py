"""The whole system learns: Catch, in process and so the same on every machine, three seeds."""

import pytest

from configs.load import load
from learner.loop import LoopSettings, Progress, run
from scripts import build


def _train(seed, **agent):
    overrides = [f"{key}={value}" for key, value in agent.items()]
    config = load("catch/impala", [f"seed={seed}", "actors.runtime=in_process", *overrides])
    probe = build.probe_environment(config)
    agent = build.build_agent(config, probe)
    source = build.build_source(config, probe, starts=0)
    lines = []
    run(
        agent.learner,
        agent.initial_state,
        source,
        Progress(),
        LoopSettings(200_000, 1e9, 1e9),
        stop=lambda: False,
        on_metrics=lines.append,
        on_checkpoint=lambda state, progress: None,
    )
    source.close()
    return lines[-1]["episode_return"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_catch_is_learned(seed):
    assert _train(seed) >= 0.9


def test_it_is_the_learning_that_does_it():
    """The same run without a policy gradient plays like chance (a random paddle: about -0.6)."""
    assert _train(0, **{"agent.policy_cost": 0}) < 0
