"""`bmg bench` within a budget of time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.load import load
from scripts.check import all_faults
from tests.system.command import PATIENCE, ROOT, bmg


@pytest.mark.ci
def test_what_fits_into_a_budget_is_told_line_by_line_and_the_rest_by_name():
    done = bmg("bench", "catch/impala", "actors.runtime=in_process", "--budget", "20")
    assert done.returncode == 0, done.stderr
    first, *lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (first["config"], first["budget"]) == ("catch/impala", 20)
    names = [line["stage"] for line in lines]
    assert names[:4] == ["learner_step", "whole", "environment_and_policy", "environment"]
    assert {"learner_step of stacx", "learner_step of bmg L=4"} <= {*names}
    assert lines[0]["steps_per_second"] > 0
    floor = lines[0]["floor"]
    assert floor["share_reached"] == pytest.approx(
        lines[0]["steps_per_second"] / floor["steps_per_second"], rel=0.1
    )
    assert "left" in lines[-1]["skipped"]
    assert all(("skipped" in line) != ("took_seconds" in line) for line in lines)


@pytest.mark.ci
def test_a_stage_that_there_is_not_is_refused_with_those_that_there_are():
    done = bmg("bench", "catch/impala", "actors.runtime=in_process", "--stages", "hole")
    assert done.returncode == 2
    assert "--stages: it needs --budget SECONDS" in done.stderr
    arguments = ("actors.runtime=in_process", "--stages", "hole", "--budget", "9")
    done = bmg("bench", "catch/impala", *arguments)
    assert done.returncode == 2
    assert "--stages: no stage 'hole'; there are learner_step, whole, " in done.stderr
    assert done.stdout == ""


@pytest.mark.ci
def test_what_a_gpu_is_asked_for_runs_on_a_processor_with_tiny_sizes(tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "gpu" / "measure.sh", "--dry", tmp_path, "1000"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    measured = {line["stage"]: line for line in lines if "stage" in line}
    assert measured["learner_step"]["steps_per_second"] > 0
    assert measured["whole"]["steps_per_second"] > 0
    assert measured["acting"]["steps_per_second"] > 0


def test_every_command_for_a_gpu_is_one_of_ours():
    """Those of the real measurement, which runs where there is one: configurations and keys."""
    text = (ROOT / "scripts" / "gpu" / "measure.sh").read_text()
    on_gpu = text.partition('on_gpu="')[2].partition('"')[0]
    _, _, real = text.partition("game=")
    commands = [line for line in real.splitlines() if line.startswith("bench ")]
    assert len(commands) == 10
    shares = 0
    for line in commands:
        words = line.replace("$on_gpu", on_gpu).replace("$game", "env.game=breakout").split()
        _, share, config, *overrides = words[: words.index("--stages")]
        shares += int(share)
        assert all_faults(load(config, overrides)) == []
    assert shares == 100
