"""A learned hyper-parameter and a matching function from outside: docs/extending.md holds."""

import json
import shutil
import subprocess
import sys

from agents import actor_critic
from agents.hyperparameters import Learned
from agents.matching import MATCHING
from tests import small
from tests.agents import test_meta_gradient
from tests.system.command import PATIENCE, ROOT


def test_both_work_from_the_command_line(tmp_path):
    script = shutil.copy(ROOT / "tests" / "extension.py", tmp_path / "my_bmg.py")
    command = [
        *(sys.executable, script, "train", "catch/bmg"),
        *("total_frames=20000", "actors.runtime=in_process", "--run-dir", tmp_path / "run"),
        *("meta.matching=hellinger", "meta.learned=[advantage_scale,discount]"),
        *("agent.advantage_scale=0.5", "meta.upper.advantage_scale=1.5"),
    ]
    result = subprocess.run(
        [str(x) for x in command], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert result.returncode == 0, result.stderr
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0.0 < last["meta/advantage_scale"] < 1.5
    assert abs(last["meta/advantage_scale"] - 0.5) > 1e-3
    assert last["meta/gradient/advantage_scale"] > 0.0
    assert "meta/value_cost" not in last


def test_their_meta_gradient_is_right(x64, monkeypatch):
    before = dict(MATCHING)
    monkeypatch.setattr("agents.actor_critic.make_targets", actor_critic.make_targets)
    monkeypatch.setattr("agents.matching.MATCHING", before)
    monkeypatch.setattr("agents.hyperparameters.HYPERPARAMETERS", dict(small.HYPERPARAMETERS))
    from tests import extension

    monkeypatch.setitem(small.HYPER, "advantage_scale", 1.0)
    monkeypatch.setitem(small.OUTER, "advantage_scale", 1.0)
    monkeypatch.setitem(MATCHING, "hellinger", extension.hellinger)
    problem = small.MetaProblem(
        matching="hellinger",
        learned={"advantage_scale": Learned(0.5, 2.0), "discount": Learned(0.9, 1.0)},
    )
    test_meta_gradient.check_against_finite_differences(problem, 3, 2)
