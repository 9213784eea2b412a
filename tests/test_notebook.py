"""docs/learned_schedule.ipynb: its cells, one after the other, of a shorter run."""

import json

import matplotlib
import pytest

from tests.system.command import ROOT, read_summary


def _cells():
    notebook = json.loads((ROOT / "docs" / "learned_schedule.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if "outputs" in cell)
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


@pytest.mark.ci
def test_its_cells_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    (tmp_path / "results").symlink_to(ROOT / "docs" / "results")
    names = {}
    train, *rest = _cells()
    shorter = train.replace("total_frames=100_000", "total_frames=5_000")
    assert shorter != train
    for cell in (shorter, *rest):
        exec(compile(cell, "learned_schedule.ipynb", "exec"), names)
    ended = read_summary(tmp_path / "runs" / "learned_schedule")
    assert (ended["status"], ended["seeds"]) == ("finished", 2)
    drawn = names["below"].lines[0].get_ydata()
    assert 400 < len(drawn) < 600
    assert drawn.max() > drawn.min() + 0.2
    names["plt"].close(names["figure"])
