"""`bmg bench` within a budget of time."""

import json
import time

import pytest

from tests.system.command import bmg


@pytest.mark.ci
def test_what_fits_into_a_budget_is_told_line_by_line_and_the_rest_by_name():
    begun = time.monotonic()
    done = bmg("bench", "catch/impala", "actors.runtime=in_process", "--budget", "20")
    assert time.monotonic() - begun < 120  # a stage that compiles is not interrupted
    assert done.returncode == 0, done.stderr
    first, *lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (first["config"], first["budget"]) == ("catch/impala", 20)
    names = [line["stage"] for line in lines]
    assert names[:4] == ["learner_step", "whole", "environment_and_policy", "environment"]
    assert {"learner_step of stacx", "learner_step of bmg L=4"} <= {*names}
    assert lines[0]["steps_per_second"] > 0
    assert "left" in lines[-1]["skipped"]
    assert all(("skipped" in line) != ("took_seconds" in line) for line in lines)
