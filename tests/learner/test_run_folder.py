"""The run folder's files."""

import json

import pytest

from learner.run_folder import RunFolder, forget_after, write_json


def test_metrics_summary_and_tensorboard(tmp_path):
    folder = RunFolder(tmp_path / "run", tensorboard=True)
    folder.log({"frames": 4, "loss/total": float("nan"), "policy_lag_histogram": {"1": 2}})
    folder.log({"frames": 8, "loss/total": 0.5, "policy_lag_histogram": {}})
    folder.write_summary("running", seed=3)
    folder.note("configuration", "seed: 3\nenv:\n  game: pong\n")
    folder.close()
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss/total"] is None
    assert lines[1] == {"frames": 8, "loss/total": 0.5, "policy_lag_histogram": {}}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "running"
    assert summary["frames"] == 8
    assert summary["seed"] == 3
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss/total" in content
    assert b"configuration" in content
    assert b"    seed: 3\n    env:\n      game: pong\n" in content  # verbatim, in Markdown


def test_lines_go_where_a_reader_looks_for_them(tmp_path):
    """Also once an editor has replaced the file; a folder that is gone is an error."""
    folder = RunFolder(tmp_path / "run", tensorboard=False)
    file = tmp_path / "run" / "metrics.jsonl"
    folder.log({"frames": 4})
    file.rename(tmp_path / "run" / "metrics.jsonl~")
    file.write_text('{"frames": 4}\n')
    folder.log({"frames": 8})
    assert file.read_text() == '{"frames": 4}\n{"frames": 8}\n'
    file.unlink()
    folder.log({"frames": 12})
    assert file.read_text() == '{"frames": 12}\n'
    folder.path.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"run/metrics\.jsonl"):
        folder.log({"frames": 16})
    assert not (tmp_path / "run").exists()
    folder.close()


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"frames": 4}\n{"frames": 8}\n{"frames": 12}\n{"fram')
    forget_after(tmp_path, 8)
    assert file.read_text() == '{"frames": 4}\n{"frames": 8}\n'
    forget_after(tmp_path / "empty", 8)  # nothing to forget


def test_a_resumed_run_keeps_its_last_values_in_the_summary(tmp_path):
    for _ in range(2):
        folder = RunFolder(tmp_path, tensorboard=False)
        if not folder.path.joinpath("summary.json").exists():
            folder.log({"frames": 8, "episode_return": 0.5})
        folder.write_summary("running")
        folder.close()
    assert json.loads((tmp_path / "summary.json").read_text())["episode_return"] == 0.5


def test_json_is_replaced_whole(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1.5, float("inf")]})
    write_json(tmp_path / "a.json", {"y": {"z": float("inf")}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"y": {"z": None}}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
