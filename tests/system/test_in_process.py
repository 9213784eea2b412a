"""`bmg train` without Ray: bit for bit repeatable, and what is the same with and without it."""

import json

import pytest

from configs.load import load
from scripts.record import _wandb
from tests.system.checkpoints import equal, last_checkpoint
from tests.system.command import bmg, on_terminal, read_metrics, read_summary, start, wait_for

CATCH = ("train", "catch/impala", "logging.every_seconds=0.5", "actors.runtime=in_process")


@pytest.mark.ci
def test_in_process_runs_repeat_bit_for_bit(tmp_path):
    """Also from the configuration that a run has written; its one line counts all updates."""
    runs, written = [], ("train", tmp_path / "a" / "config.yaml")
    once = (*CATCH, "total_frames=20000", "logging.every_seconds=1000")
    for name, run in (("a", once), ("b", written)):
        result = bmg(*run, "--run-dir", tmp_path / name)
        assert result.returncode == 0, result.stderr
        runs.append(read_metrics(tmp_path / name)[-1])
    learned = [{k: v for k, v in run.items() if k.startswith(("loss/", "episode"))} for run in runs]
    assert learned[0] == learned[1]
    other = bmg(*CATCH, "total_frames=20000", "seed=1", "--run-dir", tmp_path / "c")
    assert other.returncode == 0
    assert read_metrics(tmp_path / "c")[-1]["loss/total"] != runs[0]["loss/total"]


@pytest.mark.ci
@pytest.mark.parametrize("config", [pytest.param("impala", marks=pytest.mark.slow), "bmg"])
def test_in_process_killed_and_resumed_it_ends_bit_for_bit_like_an_undisturbed_run(
    tmp_path, config
):
    """Boards, random streams, the parameters of the batch before, and BMG's replay are saved."""
    run = ("train", f"catch/{config}", "actors.runtime=in_process", "logging.every_seconds=0.2")
    run = (*run, "total_frames=60000", "checkpoint.every_seconds=0.3")
    whole, folder = tmp_path / "whole", tmp_path / "run"
    undisturbed = bmg(*run, "--run-dir", whole)
    assert undisturbed.returncode == 0, undisturbed.stderr
    process = start(*run, "--run-dir", folder)
    wait_for(lambda: len(read_metrics(folder)) >= 5, what="five lines of metrics")
    process.kill()
    process.communicate()
    assert read_summary(folder)["frames"] < 60_000, "killed too late to interrupt anything"
    resumed = bmg(*run, "--run-dir", folder, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    (state, progress), (expected, expected_progress) = map(last_checkpoint, (folder, whole))
    assert progress == expected_progress
    assert equal(state, expected)


@pytest.mark.ci
def test_a_resumed_run_says_when_its_learning_rate_falls_elsewhere(tmp_path):
    folder = tmp_path / "run"
    run = (*CATCH, "learner.learning_rate_schedule=linear", "--run-dir", folder)
    assert bmg(*run, "total_frames=4000").returncode == 0
    short = ("total_frames=2000", "learner.schedule_frames=3000")
    refused = bmg(*run, *short, "--resume")
    assert refused.returncode == 2
    assert "learner.schedule_frames=3000" in refused.stderr
    assert "has trained" in refused.stderr
    refused = bmg(*run, "total_frames=2000", "--resume")
    assert refused.returncode == 2
    assert refused.stderr.startswith("bmg: total_frames=2000: the run in ")
    assert read_summary(folder)["total_frames"] == 4000
    planned = bmg("train", "--resume", folder, "total_frames=6000", "--dry-run").stdout
    trained = read_summary(folder)["frames"]
    assert f"# would go on after {trained:,} of 6,000 frames" in planned
    assert f"# would train {6000 - trained:,} frames in " in planned
    kept = bmg(*run, "total_frames=5000", "learner.schedule_frames=8000", "--resume")
    assert kept.returncode == 0, kept.stderr
    (line,) = kept.stderr.strip().splitlines()
    assert "falls to 0 at 8000 frames now, no longer at 4000" in line
    assert line in (folder / "log.txt").read_text()
    same = bmg(*run, "total_frames=6000", "learner.schedule_frames=8000", "--resume")
    assert same.returncode == 0
    assert same.stderr == ""


@pytest.mark.ci
def test_live_display_on_a_terminal(tmp_path):
    """A pseudo-terminal, which obeys nothing of a folder's name; neither does the table."""
    folder = tmp_path / "[/2026] proj\x07"
    status, shown = on_terminal(*CATCH, "total_frames=60000", "--run-dir", folder)
    assert status == 0, shown
    assert b"\x07" not in shown
    for word in (
        b"frames/s",
        b"time left",
        b"mean return",
        b"loss/total",
        b"policy lag",
        b"actors",
        b"loading JAX",
        b"elapsed",
    ):
        assert word in shown


def test_games_lists_57():
    result = bmg("games")
    assert result.returncode == 0
    assert "montezuma_revenge" in result.stdout
    assert "4,753.3" in result.stdout


@pytest.mark.ci
def test_without_network_weights_and_biases_stays_on_this_machine(tmp_path, monkeypatch):
    """Neither key nor network: said once, and the run goes on."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where a key could be
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    folder = tmp_path / "run"
    result = bmg(*CATCH, "total_frames=20000", "logging.wandb=true", "--run-dir", folder)
    assert result.returncode == 0, result.stderr
    assert "no Weights & Biases" in (folder / "log.txt").read_text()
    assert read_summary(folder)["status"] == "finished"
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))


_SERVICE = """
import json
def send(metrics, run_dir):
    with open("sent.txt", "a") as file:
        file.write(json.dumps([metrics["frames"], run_dir.name]) + "\\n")
    if 10 < metrics["learner_updates"] < 13:
        raise OSError("nobody there")
    if metrics["learner_updates"] > 20:
        raise OSError("gone")
"""


@pytest.mark.ci
def test_a_sink_gets_every_line_and_stops_no_training(tmp_path):
    """A module in the current folder; resuming names its file before it is run."""
    (tmp_path / "my_service.py").write_text(_SERVICE)
    run = (*CATCH, "logging.every_seconds=0.001", "logging.sink=my_service:send")
    result = bmg(*run, "total_frames=60000", "--run-dir", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lost, again, last = result.stderr.splitlines()
    assert lost == "a line is lost to the sink, which raised OSError: nobody there"
    assert again == "a line is lost to the sink, which raised OSError: gone"
    assert last == "the sink gets no more lines: again and again it raised OSError: gone"
    sent = [json.loads(line) for line in (tmp_path / "sent.txt").read_text().splitlines()]
    written = read_metrics(tmp_path / "run")
    assert sent == [[line["frames"], "run"] for line in written[: len(sent)]]
    raised = [line for line in written[: len(sent)] if line["learner_updates"] > 20]
    assert len(raised) == 10 < len(written) - len(sent) + 10
    resumed = bmg("train", "--resume", "run", "total_frames=61000", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"names the sink my_service: {tmp_path / 'my_service.py'} is run" in resumed.stderr


@pytest.mark.ci
def test_weights_and_biases_goes_on_with_a_resumed_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ("logging.wandb_project=p", "logging.wandb_group=g", "logging.wandb_tags=[a, b]")
    config, seen = load("catch/impala", ["logging.wandb=true", *words]), []
    for _ in range(2):
        run = _wandb(config.name, config.logging, config.model_dump(mode="json"), tmp_path)
        seen.append((run.id, run.project, run.group, run.tags))
        run.log({"frames": 1}, step=1)
        run.finish()
    assert seen[0] == seen[1]
    assert seen[0][1:] == ("p", "g", ("a", "b"))
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{seen[0][0]}"))) > 0
