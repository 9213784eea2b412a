"""Where `bmg` runs: in another project's folder, and in folders of its own under runs/."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.folders import new_folder
from tests.system.command import PATIENCE, read_summary

_ENVIRONMENT = """
import gymnasium, numpy

class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (3,), numpy.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return numpy.zeros(3, numpy.float32), {}

    def step(self, action):
        self.steps += 1
        return numpy.zeros(3, numpy.float32), float(action), self.steps == 5, False, {}

gymnasium.register("Mine-v0", Mine)
"""


@pytest.fixture
def project(tmp_path):
    """A folder with an environment of its own, in which each other module is a wrong one."""
    folder = tmp_path / "project"
    folder.mkdir()
    for package in ("agents", "actors", "configs", "learner", "scripts"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(f"raise ImportError('wrong {package}')")
    for module in ("optax", "random"):  # one that is installed, one of Python's own
        (folder / f"{module}.py").write_text(f"raise ImportError('wrong {module}')")
    (folder / "my_environments.py").write_text(_ENVIRONMENT)
    return folder


@pytest.mark.ci
def test_learner_actors_trials_and_evaluations_use_the_code_of_the_command(project):
    """And find the folder's environment. A sweep's trial has actors in a Ray of its own."""
    (project / "sweep.yaml").write_text("""
base: catch/impala
set:
  env.suite: gymnasium
  env.reward_clip: 0
  actors.count: 1
  actors.envs_per_actor: 16
  logging.tensorboard: false
  total_frames: 3000
  evaluation.every_frames: 3000
grid: {env.game: ["my_environments:Mine-v0"]}
""")
    result = subprocess.run(
        [Path(sys.executable).with_name("bmg"), "sweep", "sweep.yaml", "--results", "results"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=project,
        check=False,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    (run,) = (path for path in (project / "results").iterdir() if path.is_dir())
    assert read_summary(run)["actors/alive"] == 1
    (evaluation,) = run.glob("evaluation-at-*.json")
    assert set(json.loads(evaluation.read_text())["lengths"]) == {5}


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    """Those into which nothing has been written go again, and runs/ with them."""
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as runs:
        folders = [runs.enter_context(new_folder("run")) for _ in range(20)]
        assert len({*folders}) == 20
        assert all(folder.is_dir() for folder in folders)
        (folders[3] / "config.yaml").touch()
    assert list(Path("runs").iterdir()) == [folders[3]]
    (folders[3] / "config.yaml").unlink()
    folders[3].rmdir()
    Path("runs").rmdir()
    with new_folder("run"):
        pass
    assert not list(tmp_path.iterdir())
