"""Published agents beside runs: which are drawn, the table at common frames, what is refused."""

import csv
import importlib.resources
import itertools
import json
import re

import numpy as np
import pytest

from actors.environments.atari_games import BY_NAME
from configs.load import ConfigError, frames_of
from scripts.report import scores
from scripts.report.common_frames import report_common_frames
from scripts.report.comparison import compare
from scripts.report.figures import label_levels, new_figure, pyplot
from scripts.report.html import Section
from scripts.report.learning_curves import draw_curve, lines_of
from scripts.report.published_agents import drawn, read_published
from scripts.report.report import report
from scripts.report.runs import read_run
from tests.scripts.synthetic_runs import write_run
from tests.system.command import ROOT

_SHIPPED = importlib.resources.files("scripts").joinpath("published/published_curves.csv")
_HEADER = "source,agent,game,mframes,score,sd,seeds,sticky,kind\n"


def _rows(file):
    with file.open() as stream:
        return list(csv.DictReader(stream))


def _write(folder, algorithm, game, seed, final, *, total, reached=1.0, **options):
    """As `write_run`, of a run of so many frames."""
    overrides = (f"total_frames={total}",)
    write_run(folder, algorithm, game, seed, final, overrides=overrides, reached=reached, **options)
    file = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line["frames"] = line["frames"] * total // 200_000_000
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "total_frames": total}))


@pytest.fixture
def texts(monkeypatch):
    """The texts of each figure that is saved, by its name."""
    found = {}

    def keep(section, figure, name):
        if figure is None:
            return
        legends = [*figure.legends, *(a.legend_ for a in figure.axes if a.legend_)]
        found[name] = {
            "titles": [legend.get_title().get_text() for legend in legends],
            "labels": [text.get_text() for legend in legends for text in legend.get_texts()],
            "ends": [max(line.get_xdata()) for line in figure.axes[0].lines],
        }
        pyplot().close(figure)  # other tests look at the files; this is faster

    monkeypatch.setattr(Section, "figure", keep)
    return found


def test_runs_of_different_lengths_stand_side_by_side_with_published_agents(
    tmp_path, capsys, texts
):
    for seed, final in enumerate((20.0, 24.0)):
        _write(tmp_path / f"runs/short-{seed}", "bmg", "breakout", seed, final, total=10_000_000)
    _write(tmp_path / "runs/long", "impala", "breakout", 0, 160.0, total=40_000_000, lines=400)
    _write(
        *(tmp_path / "runs/late", "impala", "breakout", 1, 9.0),
        **{"total": 40_000_000, "status": "interrupted", "reached": 0.1},
    )
    assert report([str(tmp_path / "runs")], str(tmp_path / "out"), []) == 0
    rows = {row["agent"]: row for row in _rows(tmp_path / "out/common_frames.csv")}
    ours = rows["bmg"]
    assert (ours["frames"], ours["return"], ours["seeds"]) == ("10000000", "22.0", "2")
    assert (ours["95% interval"], ours["whole run"]) == ("20.00 to 24.00", "10,000,000")
    # Its return grows to 160 at 36M frames in a straight line; the mean of 9.5M to 10M frames.
    assert float(rows["impala"]["return"]) == pytest.approx(160 * 9.8 / 36, abs=0.5)
    assert (rows["impala"]["seeds"], rows["impala"]["95% interval"]) == ("1", "")
    published = rows["RLlib IMPALA"]
    assert (published["return"], published["sticky actions"]) == ("75.76", "0")
    assert rows["DQN (CNN torso)"]["sticky actions"] == "0.25"
    assert "SB3 ppo" not in rows  # at 40M frames alone
    assert list(rows)[2] == "Rainbow (Impala torso)"  # the best of them
    said = capsys.readouterr().out
    assert "1 run of fewer frames than 10,000,000 left out of the table at common frames: late" in (
        said
    )
    assert "learning rates fall over different numbers of frames (10,000,000, 40,000,000)" in said
    page = (tmp_path / "out/index.html").read_text()
    assert "<h3>At common frames: 10,000,000</h3>" in page
    for name in ("curve", "game_breakout"):
        assert "RLlib IMPALA, rl-experiments 66c7949, no sticky actions" in texts[name]["labels"]
        assert "IQN (CNN torso), dopamine 5873f54, sticky actions 0.25" in texts[name]["labels"]
        assert sum("66c7949" in label or "5873f54" in label for label in texts[name]["labels"]) == 5
        assert (
            "published agents; protocols are mixed: these runs have no sticky actions"
            in (texts[name]["titles"])
        )
        assert max(texts[name]["ends"]) <= 40_000_000


def test_frames_choose_where_runs_are_compared_and_atari_5_has_its_own_name(tmp_path):
    final = {}
    for game in (*scores.ATARI_5, "pong"):
        human = BY_NAME[game]
        for seed in range(2):
            final[game] = human.random_score + 0.4 * (human.human_score - human.random_score)
            _write(
                tmp_path / f"runs/{game}{seed}", "bmg", game, seed, final[game], total=20_000_000
            )
    _write(tmp_path / "runs/other", "impala", "phoenix", 0, 1.0, total=5_000_000)
    runs = [read_run(path) for path in sorted((tmp_path / "runs").iterdir())]
    (comparison,) = compare(runs, frames=20_000_000)
    assert any(
        note.endswith("left out of the table at common frames: other (5,000,000)")
        for note in comparison.notes
    )
    section = Section(tmp_path, "title")
    report_common_frames(section, comparison, read_published(None))
    assert section.files == ["common_frames.md", "common_frames.csv", "atari_5.md", "atari_5.csv"]
    assert section.tables[1][0].startswith("Atari-5's score at 20,000,000 frames")
    rows = _rows(tmp_path / "common_frames.csv")
    assert {row["agent"] for row in rows if row["source"] == "these runs"} == {"bmg"}
    assert {row["game"] for row in rows} == {*scores.ATARI_5, "pong"}
    assert {row["frames"] for row in rows} == {"20000000", "40000000"}  # no other is near
    atari_5 = {row["agent"]: row for row in _rows(tmp_path / "atari_5.csv")}
    assert float(atari_5["bmg"]["Atari-5"]) == pytest.approx(41**0.9653 - 1, abs=0.06)
    with _SHIPPED.open() as stream:
        dqn = {
            row["game"]: float(row["score"])
            for row in csv.DictReader(stream)
            if (row["agent"], row["mframes"]) == ("DQN (CNN torso)", "20")
        }
    value = 1.0
    for game, weight in scores.ATARI_5.items():
        human = BY_NAME[game]
        share = (dqn[game] - human.random_score) / (human.human_score - human.random_score)
        value *= (1 + 100 * max(0.0, share)) ** weight
    assert float(atari_5["DQN (CNN torso)"]["Atari-5"]) == pytest.approx(value - 1, abs=0.06)


def test_what_is_drawn_goes_as_far_as_the_runs(tmp_path):
    _write(tmp_path / "a", "bmg", "pong", 0, 20.0, total=5_000_000)
    run = read_run(tmp_path / "a")
    every = read_published(None)
    found = drawn(every, [run])
    assert {entry.agent for entry in found} == {
        *("DQN (CNN torso)", "IQN (CNN torso)", "Rainbow (CNN torso)", "Rainbow (Impala torso)")
    }
    for entry in found:
        np.testing.assert_array_equal(entry.frames, [2e6, 4e6])
    gymnasium = run._replace(summary={"protocol": {"suite": "gymnasium", "game": "pong"}})
    assert drawn(every, [gymnasium]) == []
    _write(tmp_path / "short", "bmg", "pong", 0, 20.0, total=3_000_000)
    short = drawn(every, [read_run(tmp_path / "short")])
    assert {len(entry.frames) for entry in short} == {1}  # of 2M frames
    assert len(short) == 4
    assert {entry.game for entry in every} == set(BY_NAME)


@pytest.mark.ci
def test_results_that_are_kept_can_be_drawn_again(tmp_path):
    """What stands in docs/results: configuration, thinned metrics, summary."""
    runs = [file.parent for file in (ROOT / "docs/results").rglob("metrics.jsonl")]
    runs = [folder for folder in runs if folder.parent.name != "catch_repair"]  # see below
    of_seeds = [folder for folder in runs if (folder / "seeds.npz").exists()]
    kept = [*({*runs} - {*of_seeds}), *{folder.parent for folder in of_seeds}]
    assert kept
    for index, folder in enumerate(kept):
        out = tmp_path / str(index)
        report([str(folder)], str(out), [])
        if folder not in runs:
            assert (out / "index.html").exists(), folder
            continue
        assert (out / "curve.png").stat().st_size > 5_000, folder
        assert _rows(out / "common_frames.csv")[0]["return"], folder


@pytest.mark.ci
def test_figures_of_the_readme_are_drawn_again_by_the_command_beside_them(tmp_path):
    """And tables of the results that are given by one folder are those of today's report."""
    shown = re.findall(r"!\[.*?\]\((docs/results/\S+?)\)", (ROOT / "README.md").read_text())
    assert shown
    pages = {ROOT / file: (ROOT / file).parent for file in shown}
    for page in {
        *pages.values(),
        *(ROOT / f"docs/results/{n}" for n in ("breakout", "breakout_bmg")),
    }:
        given = page.relative_to(ROOT)
        assert f"bmg report {given} --out figures" in (page / "README.md").read_text()
        assert report([str(page)], str(tmp_path / page.name), []) == 0
        assert _rows(tmp_path / page.name / "table.csv") == _rows(page / "table.csv")
    for file, page in pages.items():
        assert (tmp_path / page.name / file.name).stat().st_size > 5_000


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("s,a,brekout,2,1,,1,0,k", "line 2: unknown game 'brekout'; did you mean 'breakout'?"),
        ("s,a,xyzzy,2,1,,1,0,k", "line 2: unknown game 'xyzzy'; `bmg games` lists them"),
        ("s,a,pong,two,1,,1,0,k", "line 2: mframes=two: must be a number"),
        ("s,a,pong,0,1,,1,0,k", "line 2: mframes=0: must be greater than 0"),
        ("s,a,pong,2,nan,,1,0,k", "line 2: score=nan: must be a number"),
        ("s,a, 1 GPU,pong,2,1,,1,0,k", "line 2: has not 9 columns; texts with commas need quotes"),
        ("s,a,pong,2,1,,1,0,k\ns,a,pong,2.0,3,,1,0,k", "line 3: a has a score in pong at 2.0M"),
    ],
)
def test_published_scores_that_cannot_be_used_are_told_in_a_line(tmp_path, line, told):
    _write(tmp_path / "run", "bmg", "pong", 0, 20.0, total=5_000_000)
    file = tmp_path / "mine.csv"
    file.write_text(_HEADER + line + "\n")
    with pytest.raises(ConfigError) as error:
        report([str(tmp_path / "run")], str(tmp_path / "out"), [], None, str(file))
    assert f"{file}, {told}" in str(error.value)
    file.write_text("source,agent,game\n")
    with pytest.raises(ConfigError, match="column mframes is missing"):
        report([str(tmp_path / "run")], str(tmp_path / "out"), [], None, str(file))
    assert not (tmp_path / "out").exists()


def test_frames_beyond_every_run_are_refused_before_anything_is_written(tmp_path):
    _write(tmp_path / "run", "bmg", "pong", 0, 20.0, total=5_000_000)
    with pytest.raises(
        ConfigError, match=r"--frames 6000000: no run goes so far; .*run, has 5000000"
    ):
        report([str(tmp_path / "run")], str(tmp_path / "out"), [], 6_000_000)
    assert not (tmp_path / "out").exists()


def test_frames_are_written_as_total_frames_may_be():
    assert frames_of("--frames", "4e6") == frames_of("--frames", "4000000") == 4_000_000
    for text in ("soon", "1.5", "0", ""):
        with pytest.raises(ConfigError, match=rf"^--frames {text or 'None'}: input should be"):
            frames_of("--frames", text)


def test_published_scores_do_not_flatten_a_short_run(tmp_path):
    _write(tmp_path / "a", "bmg", "pong", 0, -19.5, total=8_000_000)
    run = read_run(tmp_path / "a")
    (comparison,) = compare([run])
    figure = draw_curve(lines_of(comparison), read_published(None))
    axes = figure.axes[0]
    _, returns = run.curve("episode_return")
    low, high = axes.get_ylim()
    assert high - low < 1.2 * np.ptp(returns)
    assert low < returns.min() < returns.max() < high
    texts = [text.get_text() for text in axes.texts]
    assert "↑ IQN (CNN torso): 11.33" in [text.replace("\n", " ") for text in texts]
    assert len(texts) == 5
    pyplot().close(figure)


def test_labels_of_levels_stand_apart_in_their_order_and_at_the_edge():
    figure, ((axes,),) = new_figure(3.0)
    axes.plot([0, 1], [0.0, 1.0])
    before = axes.get_ylim()
    levels = [("a", 118.0), ("b", 118.0), ("a name of more than one line, b", 0.9), ("c", 0.91)]
    label_levels(axes, [*levels, ("d", -5.0), ("e", -5.0)])
    assert axes.get_ylim() == before
    texts = [text.get_text() for text in axes.texts]
    assert texts[:2] == ["↑ a", "↑ b"]
    assert texts[2] == "c"
    assert texts[3].count("\n") == 1
    assert texts[4:] == ["↓ d", "↓ e"]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    for above, below in itertools.pairwise(boxes):
        assert above.y0 >= below.y1
    inside = figure.bbox
    assert all(inside.contains(*box.max) and inside.contains(*box.min) for box in boxes)
    pyplot().close(figure)
