"""Run folders that an earlier version (commit 52051bd) left go on, are evaluated and reported."""

import json
import tarfile
from pathlib import Path

import pytest

from learner.reading import read_metrics, read_summary
from scripts.report.report import report
from tests.system.command import bmg

_RUNS = Path(__file__).parent.parent / "data" / "runs_of_52051bd.tar.xz"
# Of catch/bmg in one process and of two_colours/bmg: their frames, and how many they go on to.
_FRAMES = {"catch_bmg": (2016, 4_000), "two_colours_bmg": (2880, 5_000)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with tarfile.open(_RUNS) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.ci
@pytest.mark.parametrize("name", _FRAMES)
def test_it_goes_on_and_is_evaluated(runs, name):
    """From its own checkpoint: the counters and the learned values go on where they were."""
    run, (before, total) = runs / name, _FRAMES[name]
    earlier = read_metrics(run)[0][-1]
    assert earlier["frames"] == before
    options = [f"total_frames={total}", "evaluation.max_episode_frames=40"]
    trained = bmg("train", "--resume", run, *options)
    assert trained.returncode == 0, trained.stderr
    lines = read_metrics(run)[0]
    later = next(line for line in lines if line["frames"] > before)
    assert lines.index(later) == lines.index(earlier) + 1
    assert later["learner_updates"] > earlier["learner_updates"]
    assert later["meta/entropy_cost"] == pytest.approx(earlier["meta/entropy_cost"], rel=0.05)
    assert read_summary(run)[0]["status"] == "finished"
    assert lines[-1]["frames"] >= total
    evaluated = bmg("evaluate", run, "--episodes", "2")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((run / "evaluation.json").read_text())["episodes"] == 2


@pytest.mark.ci
def test_it_is_reported(runs, tmp_path):
    assert report([str(runs)], str(tmp_path / "report"), []) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "catch-bmg" in page
    assert "Runs of several seeds" in page
    assert (tmp_path / "report" / "schedule.png").exists()
