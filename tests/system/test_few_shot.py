"""`bmg train few_shot/...` as a user runs it: trained, killed, resumed, evaluated, reported."""

import csv
import json
import signal

import numpy as np
import pytest

from tests.system.checkpoints import equal, last_checkpoint
from tests.system.command import bmg, read_metrics, read_summary, start, wait_for

TASKS = 20_000
SMALL = (
    "train",
    "few_shot/sinusoid_bmg",
    "seeds=2",
    f"total_frames={TASKS}",
    "few_shot.validate_every=20",
    "few_shot.validation_tasks=10",
    "logging.every_seconds=0.2",
    "logging.tensorboard=false",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = bmg(*SMALL, "--run-dir", folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert "2 seeds x 20,000 tasks, 800 updates each" in result.stdout
    assert "query_loss_after_1" in result.stdout
    return folder


def test_the_run_folder(whole):
    summary = read_summary(whole)
    assert (summary["status"], summary["frames"]) == ("finished", TASKS)
    assert (summary["learner_updates"], summary["env_steps"]) == (800, TASKS)
    assert summary["protocol"]["game"] == "sinusoid"
    assert (summary["protocol"]["ways"], summary["protocol"]["shots"]) == (1, 10)
    curves = np.load(whole / "seeds.npz")
    np.testing.assert_array_equal(curves["frames"], 500 * np.arange(1, 41))
    names = {name.partition("/")[2] for name in curves.files if name.startswith("validation/")}
    assert names == {
        f"{which}_loss_{when}"
        for which in ("support", "query")
        for when in ("before", "after_1", "after_5", "after_10")
    }
    lines = read_metrics(whole)
    for key in ("validation/query_loss_after_10", "loss/total", "meta/loss", "meta/cosine"):
        assert all(line[key] is not None for line in lines)
    last = curves["validation/query_loss_after_1"][:, -1]
    assert lines[-1]["validation/query_loss_after_1"] == pytest.approx(last.mean())
    # It has learned to learn.
    before, after = (curves[f"validation/query_loss_{when}"] for when in ("before", "after_1"))
    assert (after[:, -1] < before[:, -1] - 0.2).all()
    assert (after[:, -1] < after[:, 0] - 0.2).all()


@pytest.mark.ci
def test_killed_and_resumed_it_ends_bit_for_bit_like_an_undisturbed_run(tmp_path, whole):
    folder = tmp_path / "run"
    command = (*SMALL, "checkpoint.every_seconds=0.3")
    process = start(*command, "--run-dir", folder)
    wait_for(lambda: len(read_metrics(folder)) >= 3, what="three lines of metrics")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert read_summary(folder)["frames"] < TASKS, "the signal came too late"
    resumed = bmg(*command, "--run-dir", folder, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    (state, progress), (expected_state, expected) = last_checkpoint(folder), last_checkpoint(whole)
    assert progress == expected
    assert equal(state, expected_state)
    curves, undisturbed = np.load(folder / "seeds.npz"), np.load(whole / "seeds.npz")
    assert set(curves.files) == set(undisturbed.files)
    for name in curves.files:
        np.testing.assert_array_equal(curves[name], undisturbed[name], err_msg=name)


@pytest.mark.ci
def test_evaluated_and_reported(tmp_path, whole):
    refused = bmg("evaluate", whole, "--policy", "greedy")
    assert refused.returncode == 2
    assert refused.stderr.startswith("bmg: --policy: env.suite=few_shot has tasks")
    result = bmg("evaluate", whole, "--episodes", 50)
    assert (result.returncode, result.stderr) == (0, "")
    assert "50 test tasks" in result.stdout
    evaluation = json.loads((whole / "evaluation.json").read_text())
    assert [of["steps"] for of in evaluation["query_loss"]] == [0, 1, 5, 10]
    for of in evaluation["query_loss"]:
        assert of["interval"][0] < of["mean"] < of["interval"][1]
        assert of["mean"] == pytest.approx(np.mean(of["of_seeds"]))
    reported = bmg("report", whole, "--out", tmp_path)
    assert (reported.returncode, reported.stderr) == (0, "")
    for name in ("few_shot.png", "cosine.png", "table.md", "index.html"):
        assert (tmp_path / name).stat().st_size > 0
    with (tmp_path / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["algorithm"], row["K"], row["L"], row["meta-steps"]) == ("bmg", "1", "5", "800")
    assert row["test query_loss after 1"].startswith(f"{evaluation['query_loss'][1]['mean']:.4f} (")


def test_nothing_is_created_for_tasks_that_cannot_be(tmp_path):
    result = bmg("train", "few_shot/images_bmg", f"few_shot.folder={tmp_path}", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("bmg: few_shot.folder: ")
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
