"""`bmg train two_colours/...` as a user runs it: all seeds in one program, killed and resumed."""

import csv
import json
import shutil
import signal

import numpy as np
import pytest
import yaml

from configs.load import load
from scripts.resuming import check_same_run
from tests.system.checkpoints import equal, last_checkpoint
from tests.system.command import bmg, on_terminal, read_metrics, read_summary, start, wait_for

FRAMES = 40_000
SMALL = (
    "train",
    "two_colours/bmg",
    "seeds=3",
    "env.swap_period=5000",
    "evaluation.max_episode_frames=200",
    "logging.every_seconds=0.2",
    "logging.tensorboard=false",
)


pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = bmg(*SMALL, f"total_frames={FRAMES}", "--run-dir", folder)
    assert result.returncode == 0, result.stderr
    assert "3 seeds" in result.stdout
    return folder


def test_the_run_folder(whole):
    summary = read_summary(whole)
    assert summary["status"] == "finished"
    assert FRAMES <= summary["frames"] < FRAMES + 1000
    assert summary["seeds"] == 3
    assert summary["protocol"]["swap_period"] == 5000
    assert summary["protocol"]["respawn"] == "all"
    curves = np.load(whole / "seeds.npz")
    np.testing.assert_array_equal(curves["seeds"], [0, 1, 2])
    assert curves["frames"][-1] == summary["frames"]
    assert curves["reward"].shape == curves["meta/entropy_cost"].shape == (3, len(curves["frames"]))
    lines = read_metrics(whole)
    for key in ("frames", "frames_per_second", "reward_per_step", "meta/entropy_cost", "meta/loss"):
        assert all(line[key] is not None for line in lines)
    steps = np.diff([0, *curves["frames"]])
    # Every reward is a multiple of 0.04, less the collected objects.
    assert (np.abs(curves["reward"]) <= steps).all()


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_killed_and_resumed_it_ends_bit_for_bit_like_an_undisturbed_run(tmp_path, whole, how):
    folder = tmp_path / "run"
    command = (*SMALL, f"total_frames={FRAMES}", "checkpoint.every_seconds=0.5")
    process = start(*command, "--run-dir", folder)
    wait_for(lambda: len(read_metrics(folder)) >= 6, what="six lines of metrics")
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (-9 if how == signal.SIGKILL else 143)
    interrupted = read_summary(folder)
    assert interrupted["frames"] < FRAMES, "the signal came too late to interrupt anything"
    assert interrupted["status"] == ("running" if how == signal.SIGKILL else "interrupted")
    resumed = bmg(*command, "--run-dir", folder, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    (state, progress), (expected_state, expected_progress) = (
        last_checkpoint(folder),
        last_checkpoint(whole),
    )
    assert progress == expected_progress
    assert equal(state, expected_state)
    curves, expected = np.load(folder / "seeds.npz"), np.load(whole / "seeds.npz")
    assert set(curves.files) == set(expected.files)
    for name in curves.files:
        np.testing.assert_array_equal(curves[name], expected[name], err_msg=name)


def test_reported(tmp_path, whole):
    result = bmg("report", whole, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    for name in ("cumulative_reward.png", "schedule.png", "table.md"):
        assert (tmp_path / name).stat().st_size > 0
    with (tmp_path / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["group"], row["respawn"]) == ("two_colours-bmg", "all")


def test_a_run_of_before_there_was_a_choice_goes_on_in_its_own_world(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["env"]["respawn"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for checkpoint in (folder / "checkpoints").iterdir():  # of then, too: without a configuration
        (checkpoint / "config.yaml").unlink()
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        del manifest["config.yaml"]
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    longer = (f"total_frames={2 * FRAMES}", "--run-dir", folder, "--resume")
    refused = bmg(*SMALL, *longer)
    assert refused.returncode == 2
    assert "env.respawn=all: the run in" in refused.stderr
    assert "has object" in refused.stderr
    check_same_run(load(SMALL[1], [*SMALL[2:], "env.respawn=object"]), folder)  # is not refused


def test_live_display_on_a_terminal(tmp_path):
    folder = tmp_path / "run"
    status, shown = on_terminal(*SMALL, "total_frames=3000", "--run-dir", folder)
    assert status == 0
    for word in (
        b"frames/s",
        b"time left",
        b"reward/step",
        b"seeds",
        b"entropy_cost",
        b"meta/loss",
    ):
        assert word in shown
    assert b"policy lag" not in shown


@pytest.mark.parametrize("damage", ["gone", "cut", "short"])
def test_curves_that_do_not_fit_the_checkpoint_are_not_gone_on_with(tmp_path, whole, damage):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    file = folder / "seeds.npz"
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        with np.load(file) as saved:
            content = {k: saved[k] if k == "seeds" else saved[k][..., :-1] for k in saved.files}
        np.savez_compressed(file, **content)
    result = bmg(*SMALL, f"total_frames={2 * FRAMES}", "--run-dir", folder, "--resume")
    assert result.returncode == 1
    assert str(file) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_evaluate_plays_the_agent_of_each_seed(whole):
    """For as many steps as a configuration says, since the world has no episodes."""
    refused = bmg("evaluate", whole, "--snapshots")
    assert refused.returncode == 2
    assert "--snapshots" in refused.stderr
    result = bmg("evaluate", whole, "--episodes", 2)
    assert (result.returncode, result.stderr) == (0, "")
    assert "3 seeds, 6 episodes, 6 of them cut" in result.stdout
    scores = json.loads((whole / "evaluation.json").read_text())
    assert scores["lengths"] == [200] * 6
    returns = np.reshape(scores["returns"], (3, 2))
    np.testing.assert_allclose(scores["returns_of_seeds"], returns.mean(axis=1))
    assert len({*scores["returns_of_seeds"]}) == 3
    error = returns.mean(axis=1).std(ddof=1) / np.sqrt(3)
    assert scores["standard_error"] == pytest.approx(error)
