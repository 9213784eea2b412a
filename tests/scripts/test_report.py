"""Reports from run folders: what is averaged, what is said, and the page in a real browser."""

import csv
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from actors.environments.atari_games import BY_NAME, GAMES
from configs.load import ConfigError
from scripts.report.comparison import compare
from scripts.report.figures import line_style, pyplot
from scripts.report.game_figures import draw_bootstrap_steps, draw_relative_scores, prepare
from scripts.report.learning_curves import (
    Line,
    draw_curves,
    draw_game,
    draw_hyperparameters,
    lines_of,
)
from scripts.report.report import report
from scripts.report.runs import read_run
from tests.scripts.synthetic_runs import write_run
from tests.system.command import ROOT


def _report(*paths, out, mix=()):
    return report([str(path) for path in paths], str(out), list(mix))


def _rows(file):
    with file.open() as stream:
        return list(csv.DictReader(stream))


def _few(folder, games=("pong", "breakout", "qbert"), seeds=3, algorithms=("stacx", "bmg")):
    """Runs whose returns are human scores times a factor of their own."""
    for algorithm in algorithms:
        for g, game in enumerate(games):
            for seed in range(seeds):
                factor = 1 + 0.3 * seed + g + (algorithm == "bmg")
                final = BY_NAME[game].human_score * factor
                write_run(folder / f"{algorithm}-{game}-{seed}", algorithm, game, seed, final)


@pytest.mark.ci
def test_aggregates_of_57_games_agree_with_a_computation_of_their_own(tmp_path):
    rng = np.random.default_rng(5)
    final = {}
    for game in GAMES:
        for seed in range(3):
            score = math.exp(rng.normal(0.5, 1.5))  # human-normalised
            raw = game.random_score + score * (game.human_score - game.random_score)
            final.setdefault(game.name, []).append(score)
            write_run(
                tmp_path / "runs" / f"{game.name}{seed}", "bmg", game.name, seed, raw, lines=30
            )
    _report(tmp_path / "runs", out=tmp_path / "out")
    row = _rows(tmp_path / "out/aggregates.csv")[0]
    means = [statistics.mean(scores) for scores in final.values()]
    runs = sorted(score for scores in final.values() for score in scores)
    expected = {
        "median": statistics.median(means),
        "mean": statistics.mean(means),
        "IQM": statistics.mean(runs[42:-42]),
        "optimality gap": statistics.mean(max(0.0, 1 - score) for score in runs),
    }
    for name, value in expected.items():
        shown, low, high = (float(x) for x in re.findall(r"-?[\d.]+(?=%)", row[name]))
        assert shown == pytest.approx(100 * value, abs=0.06)
        assert low < shown < high
    games = {r["game"]: r for r in _rows(tmp_path / "out/games.csv")}
    assert len(games) == 57
    pong = games["pong"]
    shown = float(pong["human-normalised"].removesuffix("%"))
    assert shown == pytest.approx(100 * statistics.mean(final["pong"]), abs=0.06)
    assert len(pong["each seed"].split()) == 3


@pytest.mark.ci
def test_all_figures_of_a_comparison(tmp_path):
    _few(tmp_path / "runs")
    _report(tmp_path / "runs", out=tmp_path / "out")
    for stem in (
        *("aggregates", "median_over_frames", "iqm_over_frames", "performance_profiles"),
        *("relative_scores", "game_pong", "game_breakout", "game_qbert", "curves"),
    ):
        for kind in ("png", "pdf"):
            assert (tmp_path / "out" / f"{stem}.{kind}").stat().st_size > 5_000, stem
    differing = {
        row["key"]: (row["bmg"], row["stacx"]) for row in _rows(tmp_path / "out/differences.csv")
    }
    assert differing["agent.algorithm"] == ("bmg", "stacx")
    assert differing["meta.matching"] == ("kl_value", "l2")
    assert "env.game" not in differing
    page = (tmp_path / "out/index.html").read_text()
    assert re.findall('alt="(.*?)"', page)[0] == "curves"
    assert page.index('alt="curves"') < page.index("<table>")
    agents = {row["agent"] for row in _rows(tmp_path / "out/aggregates.csv")}
    assert {"stacx", "bmg", "IMPALA deep, published, 200M frames"} <= agents


@pytest.mark.ci
def test_ablations_and_bootstrap_steps(tmp_path):
    for steps in (1, 2, 4):
        for seed in range(3):
            name = f"bootstrap_{steps}"
            write_run(
                *(tmp_path / "runs" / f"{name}-{seed}", "bmg", "ms_pacman", seed, 1e4 * steps),
                overrides=(f"meta.bootstrap_steps={steps}", f"name={name}"),
            )
            file = tmp_path / "runs" / f"{name}-{seed}" / "summary.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "name": name}))
    _report(tmp_path / "runs", out=tmp_path / "out")
    for stem in ("ablations", "bootstrap_steps_by_game", "curve", "hyperparameters"):
        assert (tmp_path / "out" / f"{stem}.png").stat().st_size > 5_000, stem


@pytest.mark.ci
def test_protocols_are_never_mixed_unless_asked(tmp_path, capsys):
    _few(tmp_path / "runs", games=("pong",), seeds=2)
    write_run(tmp_path / "runs/odd", "bmg", "pong", 2, 3.0, sticky_actions=0.25)
    _report(tmp_path / "runs", out=tmp_path / "out")
    assert "differ in sticky_actions" in capsys.readouterr().out
    first, second = (_rows(tmp_path / f"out/table_protocol{n}.csv") for n in (1, 2))
    assert sorted(map(len, (first, second))) == [1, 4]
    _report(tmp_path / "runs", out=tmp_path / "mixed", mix=["sticky_actions"])
    row = next(r for r in _rows(tmp_path / "mixed/games.csv") if r["agent"] == "bmg")
    assert row["seeds"] == "3"
    assert "mixed by request: sticky_actions = 0.0 (4 runs), 0.25 (1 runs)" in (
        capsys.readouterr().out
    )
    with pytest.raises(ConfigError, match=r"--mix stickyness: protocols have .*sticky_actions"):
        _report(tmp_path / "runs", out=tmp_path / "no", mix=["stickyness"])


@pytest.mark.ci
def test_what_is_missing_is_said_and_left_out(tmp_path, capsys):
    runs = tmp_path / "runs"
    _few(runs, seeds=2)
    shutil.rmtree(runs / "bmg-qbert-0")
    shutil.rmtree(runs / "bmg-qbert-1")
    shutil.rmtree(runs / "stacx-pong-1")
    write_run(runs / "late", "bmg", "pong", 7, 1e6, status="interrupted", reached=0.4)
    write_run(runs / "old", "stacx", "breakout", 8, 1e6, versions=[("jax", "0.9.0")])
    trials = {"trials": {"late": {}, "never-started": {}}}
    (runs / "sweep.yaml").write_text(json.dumps(trials))
    _report(runs, out=tmp_path / "out")
    said = capsys.readouterr().out
    assert "1 planned trial without a run: never-started" in said
    assert "1 unfinished run left out of all means: late (interrupted, 80,000,000 frames)" in said
    assert "bmg has no whole run of qbert: aggregates are over the 2 games" in said
    assert "stacx lacks seeds: breakout 7" not in said  # no whole run has that seed
    assert re.search(r"stacx lacks seeds: .*pong 1", said)
    assert "mixed versions of jax" in said
    row = next(
        r for r in _rows(tmp_path / "out/games.csv") if (r["agent"], r["game"]) == ("bmg", "pong")
    )
    assert row["seeds"] == "2"
    page = (tmp_path / "out/index.html").read_text()
    assert "never-started" in page
    assert "mixed versions of jax" in page


def test_two_runs_of_one_seed_are_two_samples_and_a_copy_is_none(tmp_path, capsys):
    for name, final in (("a", 3.0), ("b", 5.0), ("copy", 3.0)):
        write_run(tmp_path / "runs" / name, "bmg", "pong", 1, final)
    _report(tmp_path / "runs", out=tmp_path / "out")
    (row,) = _rows(tmp_path / "out/games.csv")
    assert (row["seeds"], row["return"], row["each seed"]) == ("2", "4.0", "3 5")
    assert _rows(tmp_path / "out/common_frames.csv")[0]["seeds"] == "2"
    said = capsys.readouterr().out
    assert "of one setting, game and seed, each run is a sample: a and b" in said
    assert f"copies left out: {tmp_path}/runs/copy of {tmp_path}/runs/a" in said


def test_runs_of_two_lengths_can_be_told_apart_and_are_no_samples(tmp_path, capsys):
    """In the curve and among the keys in which they differ; no note calls them samples."""
    write_run(tmp_path / "runs/long", "bmg", "pong", 1, 3.0)
    short = {"overrides": ["total_frames=100_000_000"], "reached": 0.5}
    write_run(tmp_path / "runs/short", "bmg", "pong", 1, 5.0, **short)
    write_run(tmp_path / "runs/stacx", "stacx", "pong", 1, 5.0)
    summary = tmp_path / "runs/short/summary.json"
    facts = {**json.loads(summary.read_text()), "total_frames": 100_000_000}
    summary.write_text(json.dumps(facts))
    runs = [read_run(tmp_path / "runs" / name) for name in ("long", "short", "stacx")]
    (comparison,) = compare(runs)
    styles = [(line.style["color"], line.style["linestyle"]) for line in lines_of(comparison)]
    assert len(set(styles)) == len(styles) == 3
    _report(tmp_path / "runs", out=tmp_path / "out")
    assert "is a sample" not in capsys.readouterr().out
    rows = {row["key"]: row for row in _rows(tmp_path / "out/differences.csv")}
    lengths = {k: v for k, v in rows["total_frames"].items() if k != "key"}
    assert sorted(lengths.values()) == ["100000000", "200000000", "200000000"]
    assert "200,000,000" in (tmp_path / "out/index.html").read_text()


@pytest.mark.ci
def test_runs_of_before_and_after_a_key_was_added_are_averaged(tmp_path):
    """A key's default is what was done before there was the key."""
    for seed in range(3):
        write_run(tmp_path / f"runs/{seed}", "bmg", "pong", seed, 2.0 + seed)
    file = tmp_path / "runs/0/config.yaml"
    config = yaml.safe_load(file.read_text())
    assert config["env"].pop("collection_discount") == 1.0
    file.write_text(yaml.safe_dump(config))
    _report(tmp_path / "runs", out=tmp_path / "out")
    (row,) = _rows(tmp_path / "out/games.csv")
    assert row["seeds"] == "3"


def test_only_whole_runs_are_averaged_and_an_unfinished_twin_is_no_harm(tmp_path, capsys, caplog):
    runs = tmp_path / "runs"
    write_run(runs / "a", "bmg", "pong", 1, 3.0)
    write_run(runs / "b", "bmg", "pong", 2, 5.0)
    write_run(runs / "again", "bmg", "pong", 2, 9.0, status="running", reached=0.3)
    write_run(runs / "longer", "bmg", "pong", 3, 9.0, status="running", reached=0.1)
    summary = runs / "longer/summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "total_frames": 10**9}))
    (runs / "empty").mkdir()
    (runs / "empty/metrics.jsonl").touch()
    _report(runs, out=tmp_path / "out")
    row = _rows(tmp_path / "out/games.csv")[0]
    assert (row["seeds"], float(row["return"])) == ("2", 4.0)
    said = capsys.readouterr().out
    assert "2 unfinished runs left out of all means: again (running" in said
    assert "empty: the run has logged nothing yet" in caplog.text
    with pytest.raises(ConfigError, match="logged nothing"):
        _report(runs / "empty", out=tmp_path / "no")


@pytest.mark.ci
def test_runs_without_returns_are_said_and_not_drawn_as_zero(tmp_path, capsys):
    for seed, final in enumerate((3.0, None)):
        folder = tmp_path / "runs" / str(seed)
        write_run(folder, "bmg", "pong", seed, 3.0)
        if final is None:
            text = re.sub(r'"episode_return": [^,]*', '"episode_return": null', _metrics(folder))
            (folder / "metrics.jsonl").write_text(text)
    _report(tmp_path / "runs", out=tmp_path / "out")
    assert "1 run without a return in the last twentieth" in capsys.readouterr().out
    row = _rows(tmp_path / "out/aggregates.csv")[0]
    assert (row["seeds"], row["algorithm"]) == ("1", "bmg")
    assert "to" not in row["median"]  # of one seed there is no interval
    assert not (tmp_path / "out/performance_profiles.png").exists()  # nor a profile of one game
    (tmp_path / "runs/0/metrics.jsonl").write_text(
        re.sub(r'"episode_return": [^,]*', '"episode_return": null', _metrics(tmp_path / "runs/0"))
    )
    _report(tmp_path / "runs", out=tmp_path / "none")
    assert not (tmp_path / "none/iqm_over_frames.png").exists()


def test_games_without_returns_have_no_axes_of_returns(tmp_path):
    """As Pong in the shipped smoke sweep, where hardly an episode ends."""
    for game in ("pong", "breakout"):
        for name, steps in (("a", 1), ("b", 2)):
            folder = tmp_path / f"runs/{game}-{name}"
            overrides = (f"name={name}", f"meta.bootstrap_steps={steps}")
            write_run(folder, "bmg", game, 0, 3.0, lines=4, overrides=overrides)
            if game == "pong":
                text = re.sub('"episode_return": [^,]*', '"episode_return": null', _metrics(folder))
                (folder / "metrics.jsonl").write_text(text)
            summary = json.loads((folder / "summary.json").read_text())
            (folder / "summary.json").write_text(json.dumps({**summary, "name": name}))
    runs = [read_run(path) for path in sorted((tmp_path / "runs").iterdir())]
    (comparison,) = compare(runs)
    styles = {agent.label: line_style(0) for agent in comparison.agents}
    drawing = prepare(comparison)
    titles = {
        "curves": draw_curves(comparison.agents, ("breakout", "pong"), styles),
        "pong": draw_game(comparison.agents, "pong", styles, ()),
        "bootstrap_steps": draw_bootstrap_steps(drawing),
        "relative_scores": draw_relative_scores(drawing),
    }
    for name, figure in titles.items():
        shown = [axes.get_title() for axes in figure.axes if axes.get_visible()] if figure else None
        titles[name] = shown
    assert titles == {
        "curves": ["breakout"],
        "pong": ["discount", "entropy cost"],
        "bootstrap_steps": ["breakout"],
        "relative_scores": None,
    }
    pyplot().close("all")
    _report(tmp_path / "runs", out=tmp_path / "out")
    assert not (tmp_path / "out/aggregates.csv").exists()  # it would be of published agents alone


def _metrics(folder):
    return (folder / "metrics.jsonl").read_text()


def test_evaluations_count_each_run_once_and_keep_protocols_apart(tmp_path):
    run = tmp_path / "runs/a"
    write_run(run, "bmg", "pong", 1, 3.0, overrides=("evaluation.every_frames=1000",))
    write_run(tmp_path / "runs/b", "bmg", "pong", 2, 3.0)
    for frames, sticky, score in ((1004, 0.0, 1.0), (1008, 0.0, 2.0), (1004, 0.25, 7.0)):
        evaluation = {
            **{"mean_return": score, "standard_error": None, "episodes": 3, "policy": "sample"},
            **{"frames": frames, "snapshot": True, "learner_updates": 2},
            "protocol": {"game": "pong", "sticky_actions": sticky, "actions": 6},
        }
        (run / f"evaluation-{sticky}-at-{frames}.json").write_text(json.dumps(evaluation))
    _report(tmp_path / "runs", out=tmp_path / "out")
    rows = _rows(tmp_path / "out/evaluations.csv")
    found = [(r["frames"], r["sticky actions"], r["seeds"], r["return"]) for r in rows]
    assert found == [("1000", "0.0", "1", "2.0"), ("1000", "0.25", "1", "7.0")]


def test_auxiliary_heads_stand_in_the_legend(tmp_path):
    write_run(tmp_path / "a", "bmg", "pong", 1, 3.0)
    run = read_run(tmp_path / "a")
    heads = {f"meta/auxiliary_{n}/discount": run.curves["meta/discount"] for n in (1, 2)}
    for of_heads, labels in (({}, ["bmg"]), (heads, ["bmg", "auxiliary heads"])):
        line = Line("bmg", [run._replace(curves=run.curves | of_heads)], line_style(0))
        figure = draw_hyperparameters([line])
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == labels
        drawn = [line for line in figure.axes[0].lines if len(line.get_xdata())]
        assert len(drawn) == 1 + len(of_heads)
        pyplot().close(figure)


def test_half_a_line_is_passed_over(tmp_path):
    write_run(tmp_path / "a", "bmg", "pong", 1, 3.0)
    with (tmp_path / "a/metrics.jsonl").open("a") as file:
        file.write('{"frames": 200000001, "episode_re')
    _report(tmp_path / "a", out=tmp_path / "out")
    assert _rows(tmp_path / "out/table.csv")[0]["frames"] == "200000000"


@pytest.mark.ci
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's package chromium")
def test_the_page_in_a_browser(tmp_path):
    """All pictures are in it and can be drawn, nothing is wider than the window."""
    _few(tmp_path / "runs", games=("pong", "breakout"), seeds=2)
    _report(tmp_path / "runs", out=tmp_path / "out")
    alone = tmp_path / "alone"
    alone.mkdir()
    page = (tmp_path / "out/index.html").read_text()
    look = """<script>addEventListener("load", () => {
      const scores = [...document.querySelectorAll("table")].find(
        table => table.textContent.includes("each seed"));
      const head = [...scores.querySelectorAll("th")].find(th => th.textContent == "return");
      const returns = () => [...scores.rows].slice(1).map(
        row => parseFloat(row.cells[head.cellIndex].textContent));
      head.click();
      const largest_first = returns();
      head.click();
      const pictures = [...document.images], page = document.documentElement;
      document.title = JSON.stringify({pictures: pictures.length,
        drawn: pictures.filter(p => p.complete && p.naturalWidth > 300).length,
        tables: document.querySelectorAll("table").length,
        largest_first, smallest_first: returns(),
        fits: page.scrollWidth <= page.clientWidth});
    })</script></body>"""
    (alone / "page.html").write_text(page.replace("</body>", look))
    shown = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,900"),
            *("--virtual-time-budget=10000", "--dump-dom", str(alone / "page.html")),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    found = json.loads(re.search(r"<title>(.*?)</title>", shown).group(1))
    assert found["pictures"] == found["drawn"] >= 7
    assert found["tables"] >= 3
    assert found["fits"]
    assert len(found["largest_first"]) == 4
    assert found["largest_first"] == sorted(found["largest_first"], reverse=True)
    assert found["smallest_first"] == sorted(found["largest_first"])
    assert ">200,000,000<" in page


@pytest.mark.slow
def test_171_long_runs_in_two_minutes_and_two_gib(tmp_path):
    for game in GAMES:
        for seed in range(3):
            score = game.human_score * (1 + seed)
            folder = tmp_path / "runs" / f"{game.name}-{seed}"
            write_run(folder, "bmg", game.name, seed, score, lines=8_000, filling=30)
    command = [sys.executable, "-m", "scripts.cli", "report", str(tmp_path / "runs")]
    peak = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    peak += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", peak, *command, "--out", str(tmp_path / "out")],
        *(),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert time.monotonic() - began < 120
    assert int(result.stdout.split()[-1]) * 1024 < 2 * 2**30
