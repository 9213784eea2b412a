"""Each run's own story in a report: which panels a run has, and what they show."""

import json
import re
import shutil

import numpy as np
import pytest

from scripts.report import stories
from scripts.report.figures import pyplot
from scripts.report.report import report
from scripts.report.runs import read_run
from scripts.report.stories import draw_story, panels_of
from tests.scripts.synthetic_runs import write_run
from tests.system.command import ROOT

_KEPT = ROOT / "docs/results"
_HEALTH = {"update norm", "gradient norm", "share of clipped updates", "explained variance"}
_ACTORS = {"policy lag (thin: largest)", "actors restarted", "actors alive"}


def _catch(folder):
    """A run of Catch whose lines are kept."""
    write_run(folder, "bmg", "pong", 0, 1.0)
    shutil.copy(_KEPT / "health/catch_bmg.jsonl", folder / "metrics.jsonl")
    return folder


@pytest.mark.parametrize(
    ("kept", "has", "has_not"),
    [
        (
            None,
            {"episode return", "discount", "meta-steps (logits)", "frames/s"} | _HEALTH | _ACTORS,
            {"reward per step"},
        ),
        (
            "breakout_bmg",
            {"episode return", "vtrace leak c", "meta-gradients", "frames/s"} | _ACTORS,
            {"update norm", "explained variance"},  # it is older than these
        ),
        (
            "minatar/ten_times/bmg-entropy_cost0.3-breakout",
            {"episode return", "entropy cost", "learning rate scale"},
            _ACTORS | {"explained variance", "frames/s"},  # of its lines the last one is kept
        ),
        ("two_colours/bmg", {"reward per step", "entropy cost"}, _ACTORS | _HEALTH),
        (
            "few_shot/bmg_L10_both",
            {"query loss after 1", "cosine, meta-gradient", "matching loss", "frames/s"},
            _ACTORS | {"episode return", "reward per step"},
        ),
    ],
)
def test_a_run_has_the_panels_of_what_it_has(tmp_path, kept, has, has_not):
    run = read_run(_catch(tmp_path / "catch") if kept is None else _KEPT / kept)
    panels = panels_of(run)
    titles = {panel.title for panel in panels}
    assert has <= titles
    assert not has_not & titles
    assert all(np.isfinite(line.y).sum() > 1 for panel in panels for line in panel.lines)
    figure = draw_story(run)
    drawn = {axes.get_title() for axes in figure.axes if axes.get_visible()}
    assert {title.removesuffix(" (above -1)") for title in drawn} == titles
    pyplot().close(figure)


def test_lines_are_those_of_the_metrics(tmp_path):
    run = read_run(_catch(tmp_path / "catch"))
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    panels = {panel.title: panel for panel in panels_of(run)}
    (line,) = panels["update norm"].lines
    np.testing.assert_array_equal(line.x, [line["frames"] for line in lines])
    np.testing.assert_array_equal(line.y, [line["loss/update_norm"] for line in lines])
    steps, value = panels["meta-steps (logits)"].lines, panels["entropy cost"].lines[0]
    assert len(steps) == 6
    assert steps[5].style == value.style  # what a step is of is seen by its line


def test_seeds_stand_beside_their_mean():
    panels = panels_of(read_run(_KEPT / "minatar/ten_times/bmg-entropy_cost0.3-breakout"))
    lines = {panel.title: panel.lines for panel in panels}["entropy cost"]
    assert len(lines) == 3 + 1
    np.testing.assert_allclose(lines[-1].y, np.mean([line.y for line in lines[:3]], 0))


def test_what_is_frozen_stands_at_0_of_an_axis_of_factors(tmp_path):
    folder = _catch(tmp_path / "catch")
    file = folder / "metrics.jsonl"
    file.write_text(re.sub(r'("meta/step/discount"): [^,]*', r"\1: 0.0", file.read_text()))
    figure = draw_story(read_run(folder))
    (axes,) = (axes for axes in figure.axes if axes.get_title() == "meta-steps (logits)")
    assert axes.get_ylim()[0] == 0.0
    heights = [axes.transData.transform((0, y))[1] for y in (0.0, 1e-4, 1e-3, 1e-2)]
    assert np.diff(heights).min() > 0.05 * axes.bbox.height
    pyplot().close(figure)


@pytest.mark.ci
def test_stories_stand_in_the_page_of_many_the_unfinished_ones_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stories, "_MOST_RUNS", 2)
    for seed in range(2):
        write_run(tmp_path / f"runs/a{seed}", "bmg", "pong", seed, 3.0, lines=3)
    write_run(tmp_path / "runs/late", "bmg", "pong", 7, 3.0, lines=3, status="failed", reached=0.4)
    summary = tmp_path / "runs/late/summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "reason": "<i>no memory"}))
    assert report([str(tmp_path / "runs")], str(tmp_path / "out"), []) == 0
    page = (tmp_path / "out/index.html").read_text()
    told = re.findall(r'<details id="run_\d"><summary>(.*?):', page)
    assert told == ["a0", "late"]
    assert "&lt;i&gt;no memory" in page
    files = sorted(file.name for file in (tmp_path / "out").glob("run_*"))
    assert files == ["run_1_a0.png", "run_2_late.png"]
    assert "2 of 3 runs have a story of their own here" in page
    assert "2 of 3 runs have a story of their own here" in capsys.readouterr().out
    assert report([str(tmp_path / "runs/a1")], str(tmp_path / "one"), []) == 0
    assert '<details id="run_1" open>' in (tmp_path / "one/index.html").read_text()
