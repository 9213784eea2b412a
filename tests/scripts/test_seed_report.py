"""Reports of runs of several seeds, from folders whose numbers are known."""

import csv
import json
import struct

import numpy as np
import pytest
import yaml
from scipy import stats

from configs.load import ConfigError
from scripts.report.bootstrap_steps import draw_bootstrap_steps
from scripts.report.figures import pyplot
from scripts.report.report import report
from scripts.report.runs import read_run
from scripts.report.seed_runs import pool
from scripts.report.seed_statistics import (
    bin_size,
    binned_means,
    binned_sums,
    last_periods,
    mean_interval,
    mean_over_swaps,
    rise_after_swap,
    swap_steps,
    within_a_period,
)
from scripts.report.seed_table import table_rows
from scripts.report.sensitivity import draw_sensitivity, sensitivities

PERIOD = 1_000


def make_run(
    path,
    reward,
    *,
    first=0,
    spacing=100,
    meta=None,
    changes=None,
    returns=None,
    status="finished",
    **keys,
):
    """A run folder with reward [S, N] at points of `spacing` steps."""
    reward = np.asarray(reward, np.float32)
    seeds, points = reward.shape
    frames = spacing * np.arange(1, points + 1)
    config = {
        "name": "grid",
        "seed": first,
        "seeds": seeds,
        "total_frames": spacing * points,
        "a_key_of_another_day": {"x": [1, 2]},
        "env": {"suite": "two_colours", "swap_period": PERIOD},
        "agent": {"algorithm": "bmg" if meta else "actor_critic", "entropy_cost": 0.2},
        "learner": {"learning_rate": 0.1, "devices": 1},
        "meta": {"inner_steps": 7, "bootstrap_steps": 9},
        "actors": {"count": 1},
        "checkpoint": {"keep": 3},
        "logging": {"every_seconds": 5.0},
    }
    for key, value in keys.items():
        group, _, name = key.rpartition("__")
        (config[group] if group else config)[name] = value
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (path / "summary.json").write_text(json.dumps({"status": status}))
    arrays = {f"meta/{n}": np.asarray(v, np.float32) for n, v in (meta or {}).items()}
    if changes is not None:
        arrays["greedy_changes"] = np.asarray(changes, np.float32)
    if returns is not None:
        arrays["episode_return"] = np.asarray(returns, np.float32)
    np.savez(
        path / "seeds.npz",
        frames=frames.astype(np.int64),
        seeds=np.arange(first, first + seeds),
        reward=reward,
        **arrays,
    )
    return path


def noise(seeds, points, of=0):
    return np.random.default_rng(of).normal(10.0, 5.0, (seeds, points))


def table(folder, name="table"):
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def run_report(*paths, out):
    return report([str(path) for path in paths], str(out), [])


# Numbers.


def test_interval_by_hand():
    interval = mean_interval(np.array([[1.0], [2.0], [3.0]]))
    half = 4.302652729749464 / np.sqrt(3)  # t of 2 degrees of freedom; the deviation is 1
    np.testing.assert_allclose(interval.value, [2.0])
    np.testing.assert_allclose(interval.low, [2.0 - half])
    np.testing.assert_allclose(interval.high, [2.0 + half])


def test_interval_is_scipys_at_every_step():
    values = noise(10, 30)
    low, high = stats.t.interval(0.95, 9, values.mean(0), stats.sem(values, axis=0))
    interval = mean_interval(values)
    np.testing.assert_allclose(interval.low, low)
    np.testing.assert_allclose(interval.high, high)


def test_interval_leaves_out_what_is_not_finite():
    values = noise(5, 3)
    holed = values.copy()
    holed[4, 1], holed[1:, 2] = np.nan, np.inf
    interval, four = mean_interval(holed), mean_interval(values[:4])
    np.testing.assert_allclose(interval.low[0], mean_interval(values).low[0])
    np.testing.assert_allclose(interval.low[1], four.low[1])
    np.testing.assert_allclose(interval.value[2], values[0, 2])
    assert np.isnan([interval.low[2], interval.high[2]]).all()  # of one seed nothing is known
    assert np.isnan(mean_interval(np.full((2, 1), np.nan)).value).all()


def test_bins_against_single_steps():
    frames = np.array([3, 7, 8, 14])
    amounts = noise(2, 4)
    widths = np.array([3, 4, 1, 6])
    per_step = np.repeat(amounts / widths, widths, axis=1)
    edges = np.array([[0, 2, 5, 9], [1, 8, 13, 14], [10, 12, 14, 15]])
    sums = binned_sums(frames, amounts, edges)
    assert sums.shape == (2, 3, 3)
    for row in range(3):
        for left, right, got in zip(edges[row], edges[row][1:], sums[:, row].T, strict=False):
            wanted = per_step[:, left:right].sum(1) if right <= 14 else [np.nan, np.nan]
            np.testing.assert_allclose(got, wanted, atol=1e-9)


def test_means_of_bins_leave_out_points_that_are_not_finite():
    frames, values = np.array([2, 4, 6]), np.array([[1.0, np.nan, 5.0]])
    means = binned_means(frames, values, np.array([0.0, 3.0, 6.0]))
    np.testing.assert_allclose(means, [[1.0, 5.0]])
    assert np.isnan(binned_means(frames, values, np.array([2.0, 4.0]))).all()


def test_points_across_a_swap_are_left_out():
    frames = np.array([40, 80, 120, 160, 200, 240])
    values = np.arange(6.0)[None]
    np.testing.assert_array_equal(within_a_period(frames, values, 100), [[0, 1, np.nan, 3, 4, 5]])


def test_swaps_begin_after_the_first_quarter():
    np.testing.assert_array_equal(swap_steps(1_000, 100), [300, 400, 500, 600, 700, 800, 900])
    np.testing.assert_array_equal(swap_steps(150, 100), [100])
    assert not swap_steps(100, 100).size


@pytest.mark.parametrize("end", [9_999_360, 10_000_000, 10_000_320])
def test_the_last_four_periods(end):
    spacings = [960.0, 1_008.0]
    edges = last_periods([end, 11_000_000], spacings, 100_000)
    assert bin_size(spacings, 100_000) == 1_000
    assert edges[0] == 9_600_000
    assert end - 1_000 < edges[-1] <= 10_000_000
    assert len(edges) <= 401


def test_periods_of_a_short_run():
    np.testing.assert_array_equal(last_periods([25], [10.0], 100), [0, 10, 20])
    np.testing.assert_array_equal(last_periods([110, 900], [50.0], 100), [0, 50, 100])


def test_rise_after_swap_by_hand():
    frames = 10 * np.arange(1, 31)  # swaps at 100 and 200
    values = np.full((2, 30), 0.2)
    values[0, 9], values[0, 12] = 0.1, 0.7  # before 100, and the peak 40 steps after it: rise 0.6
    values[1, 14], values[1, 15] = 0.5, 0.9  # at half the period (0.3 counts), and after it
    values[:, 19], values[0, 22] = 0.3, 0.2  # the second swap: from 0.3 to 0.2, thus -0.1
    rise = rise_after_swap(frames, values, np.array([100, 200]), 100)
    assert rise == pytest.approx((0.6 + 0.3 - 0.1 - 0.1) / 4)


def test_no_rise_without_a_whole_half_period():
    frames, values = 10 * np.arange(1, 15), np.zeros((1, 14))
    assert rise_after_swap(frames, values, np.array([100]), 100) is None
    assert rise_after_swap(frames, values, np.array([]), 100) is None


def test_mean_over_swaps():
    binned = np.array([[[1.0, 2.0], [3.0, np.nan]]])
    np.testing.assert_allclose(mean_over_swaps(binned), [[2.0, 2.0]])


# Groups.


def test_folders_of_one_setting_are_pooled(tmp_path):
    reward = noise(6, 80)
    one = make_run(tmp_path / "a", reward[:2])
    two = make_run(
        tmp_path / "b",
        reward[2:],
        first=2,
        name="other",
        actors__count=8,
        learner__devices=0,
        logging__every_seconds=1.0,
    )
    (group,) = pool([read_run(one), read_run(two)])
    assert (group.label, group.status) == ("grid", "finished")
    np.testing.assert_allclose(group.reward, reward, rtol=1e-6)
    (row,) = table_rows([group])
    totals = reward.sum(1)
    low, high = stats.t.interval(0.95, 5, totals.mean(), stats.sem(totals))
    assert row["seeds"] == 6
    assert row["total reward"] == pytest.approx(totals.mean(), abs=0.06)
    assert row["95% low"] == pytest.approx(low, abs=0.06)
    assert row["95% high"] == pytest.approx(high, abs=0.06)
    assert row["total reward std"] == pytest.approx(totals.std(ddof=1), abs=0.06)
    last = reward[:, -8:].mean() / 100
    assert row["reward per step, last 10%"] == pytest.approx(last, abs=1e-4)


def test_other_points_of_the_same_setting_are_put_on_the_coarser_ones(tmp_path):
    reward = noise(2, 60)
    fine = make_run(tmp_path / "a", reward, meta={"entropy_cost": reward})
    coarse_reward = reward.reshape(2, 20, 3).sum(2)
    coarse_meta = {"entropy_cost": coarse_reward / 3}
    coarse = make_run(tmp_path / "b", coarse_reward, first=2, spacing=300, meta=coarse_meta)
    (group,) = pool([read_run(fine), read_run(coarse)])
    assert len(group.frames) == 20
    np.testing.assert_allclose(group.reward[:2], group.reward[2:], rtol=1e-5)
    meta = group.meta["entropy_cost"]
    np.testing.assert_allclose(meta[:2], meta[2:], rtol=1e-5)


def test_a_seed_twice_is_two_samples_but_for_a_copy(tmp_path):
    reward = noise(3, 20)
    one = make_run(tmp_path / "a", reward)
    copied = make_run(tmp_path / "b", reward[2:], first=2)
    again = make_run(tmp_path / "c", reward[:1] + 1.0, first=2)
    (group,) = pool([read_run(run) for run in (one, copied, again)])
    np.testing.assert_allclose(group.reward, [*reward, reward[0] + 1.0], rtol=1e-6)
    assert group.status == "finished; copies of seeds 2 left out; each run of seeds 2 is a sample"


def test_a_shorter_repetition_does_not_cut_the_longer_run(tmp_path):
    long = make_run(tmp_path / "long", noise(3, 60))
    short = make_run(tmp_path / "short", noise(2, 20, of=1), first=1)
    (group,) = pool([read_run(run) for run in (short, long)])
    assert (len(group.reward), group.frames[-1]) == (3, 6_000)
    assert group.status == "finished; left out, as others of its seeds go farther: short"


def test_an_unfinished_run_is_said(tmp_path, capsys):
    reward = noise(4, 60)
    whole = make_run(tmp_path / "a", reward[:2])
    part = make_run(
        tmp_path / "b", reward[2:, :45], first=2, total_frames=6_000, status="interrupted"
    )
    run_report(whole, part, out=tmp_path / "out")
    (row,) = table(tmp_path / "out")
    assert row["steps"] == "4500"
    assert row["status"] == "only to 4,500 of 6,000 steps: b is interrupted"
    assert f"note: grid: {row['status']}" in capsys.readouterr().out.splitlines()
    assert float(row["total reward"]) == pytest.approx(reward[:, :45].sum(1).mean(), abs=0.06)


def test_other_ends_are_said(tmp_path):
    runs = [make_run(tmp_path / "a", noise(2, 60)), make_run(tmp_path / "b", noise(2, 30), first=2)]
    (group,) = pool([read_run(run) for run in runs])
    assert group.status == "only to 3,000 of 6,000 steps: b ends there"
    cut = make_run(tmp_path / "c", noise(2, 30), total_frames=6_000)
    (group,) = pool([read_run(cut)])
    assert group.status == "only to 3,000 of 6,000 steps: c lacks its end"
    meta = np.ones((2, 30))
    meta[1, 3] = np.nan
    (group,) = pool([read_run(make_run(tmp_path / "d", noise(2, 30), meta={"epsilon": meta}))])
    assert group.status == "finished; epsilon is not always finite in 1 of 2 seeds"


def test_greedy_changes_are_pooled_where_all_runs_have_them(tmp_path):
    changes = np.random.default_rng(0).random((2, 60))
    keys = {"meta": {"epsilon": np.full((2, 60), 0.1)}, "agent__algorithm": "q_lambda_bmg"}
    one = read_run(make_run(tmp_path / "a", noise(2, 60), changes=changes, **keys))
    two = read_run(make_run(tmp_path / "b", noise(2, 60), first=2, changes=1 - changes, **keys))
    (group,) = pool([one, two])
    np.testing.assert_allclose(group.greedy_changes, [*changes, *(1 - changes)], rtol=1e-6)
    assert group.meta.keys() == {"epsilon"}
    keys["meta"] = {"epsilon": np.full((2, 20), 0.1)}
    coarse = changes.reshape(2, 20, 3).mean(2)
    thin = make_run(tmp_path / "c", noise(2, 20), first=4, spacing=300, changes=coarse, **keys)
    (group,) = pool([one, read_run(thin)])
    np.testing.assert_allclose(group.greedy_changes, [*coarse, *coarse], rtol=1e-5)
    (group,) = pool([one, read_run(make_run(tmp_path / "d", noise(2, 20), first=6, **keys))])
    assert group.greedy_changes is None  # of a version that did not keep them


def test_labels_say_what_differs(tmp_path):
    meta = {"entropy_cost": np.ones((2, 20))}
    settings = [
        {"meta__bootstrap_steps": 9},
        {"meta__bootstrap_steps": 16, "learner__learning_rate": 0.03},
        {"name": "plain", "meta__bootstrap_steps": 1},
    ]
    runs = [
        read_run(make_run(tmp_path / str(index), noise(2, 20), meta=meta, **keys))
        for index, keys in enumerate(settings)
    ]
    labels = [group.label for group in pool(runs)]
    assert labels == ["grid (L=9, learning_rate=0.1)", "grid (L=16, learning_rate=0.03)", "plain"]


# Figures and tables.


def _png_size(file):
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG")
    return struct.unpack(">II", content[16:24])


def _schedule(seeds, points):
    since = (100 * np.arange(points) % PERIOD) / PERIOD
    return (
        0.1 + 0.3 * np.exp(-5 * since) + np.random.default_rng(1).normal(0, 0.01, (seeds, points))
    )


def _agents(folder, **keys):
    """A run of each algorithm, named as it is."""
    names = ("actor_critic", "mg", "bmg", "q_lambda", "q_lambda_bmg")
    learned = {"mg": "entropy_cost", "bmg": "entropy_cost", "q_lambda_bmg": "epsilon"}
    return [
        make_run(
            folder / name,
            noise(3, 80, of=index) * (1 + index / 5),
            meta={learned[name]: _schedule(3, 80)} if name in learned else None,
            changes=_schedule(3, 80) if name == "q_lambda_bmg" else None,
            name=name,
            agent__algorithm=name,
            agent__epsilon=0.1,
            **keys,
        )
        for index, name in enumerate(names)
    ]


def test_every_figure_is_drawn(tmp_path, capsys):
    out = tmp_path / "out"
    runs = _agents(tmp_path)
    meta = {"entropy_cost": _schedule(3, 80)}
    runs.append(make_run(tmp_path / "l", noise(3, 80), meta=meta, meta__bootstrap_steps=1))
    assert run_report(*runs, out=out) == 0
    figures = ("cumulative_reward", "schedule", "after_swap", "bootstrap_steps")
    said = capsys.readouterr().out
    for name in figures:
        width, height = _png_size(out / f"{name}.png")
        assert width == 1_400
        assert 600 <= height <= 2_000
        assert (out / f"{name}.png").stat().st_size > 20_000
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert str(out / f"{name}.png") in said
    rows = table(out)
    totals = [float(row["total reward"]) for row in rows]
    assert totals == sorted(totals, reverse=True)
    by_group = {row["group"]: row for row in rows}
    assert by_group["q_lambda"]["epsilon"] == "0.1"
    assert by_group["q_lambda"]["entropy cost"] == ""
    assert by_group["actor_critic"]["entropy cost"] == "0.2"
    assert by_group["actor_critic"]["K"] == by_group["actor_critic"]["rise after swap"] == ""
    assert (by_group["bmg"]["K"], by_group["bmg"]["L"]) == ("7", "9")
    assert 0.2 < float(by_group["bmg"]["rise after swap"]) < 0.4
    assert "| - |" in (out / "table.md").read_text()


def test_seeds_of_before_and_after_a_key_was_added_are_pooled(tmp_path):
    """A key's default is what was done before there was the key; another value is not."""
    reward = noise(3, 20)
    before = make_run(tmp_path / "a", reward[:1])
    after = make_run(tmp_path / "b", reward[1:], first=1, env__collection_discount=1.0)
    other = make_run(tmp_path / "c", reward[:1], env__collection_discount=0.0)
    one, two = pool([read_run(run) for run in (before, after, other)])
    assert (one.label, two.label) == (
        "grid (collection_discount=1)",
        "grid (collection_discount=0)",
    )
    np.testing.assert_allclose(one.reward, reward, rtol=1e-6)


def test_bootstrap_steps_only_where_they_differ(tmp_path):
    meta = {"entropy_cost": np.ones((2, 20))}
    one = make_run(tmp_path / "a", noise(2, 20), meta=meta, name="a")
    other_rate = make_run(
        tmp_path / "b", noise(2, 20), meta=meta, name="b", learner__learning_rate=0.3
    )
    mg = make_run(
        tmp_path / "c",
        noise(2, 20),
        meta=meta,
        name="c",
        agent__algorithm="mg",
        meta__inner_steps=1,
    )
    fixed = [
        make_run(tmp_path / f"fixed{k}", noise(2, 20), name=f"fixed{k}", meta__inner_steps=k)
        for k in (1, 3)
    ]
    groups = [read_run(run) for run in (one, other_rate, mg, *fixed)]
    assert draw_bootstrap_steps(pool(groups)) is None
    other_k = make_run(tmp_path / "d", noise(2, 20), meta=meta, name="d", meta__inner_steps=3)
    assert draw_bootstrap_steps(pool([*groups, read_run(other_k)])) is not None


def test_bootstrap_steps_are_compared_by_episodes_where_there_are_any(tmp_path):
    """Total reward of whole games counts the slow beginning, and is no return."""
    meta, returns = {"entropy_cost": np.ones((2, 20))}, np.zeros((2, 20))
    runs = []
    for steps, last in ((1, 5.0), (4, 20.0)):
        returns[:, 18:] = last
        keys = {"meta": meta, "meta__bootstrap_steps": steps, "returns": returns}
        runs.append(read_run(make_run(tmp_path / str(steps), np.ones((2, 20)), **keys)))
    (axes,) = draw_bootstrap_steps(pool(runs)).axes
    ((points, *_),) = axes.containers  # one with error bars
    assert axes.get_ylabel() == "episode return, last 10%"
    np.testing.assert_allclose(points.get_ydata(), [5.0, 20.0], rtol=1e-6)


PUBLISHED = "published total (std): Luketina et al. 2022"


def test_published_totals_stand_beside_runs_like_theirs(tmp_path):
    runs = _agents(tmp_path, spacing=125_000, env__swap_period=100_000, env__respawn="all")
    rows = table_rows(pool([read_run(run) for run in runs]))
    assert {row["group"]: row[PUBLISHED] for row in rows} == {
        "actor_critic": "1240000 (90000), best fixed entropy cost",
        "mg": "1580000 (60000), reward context",
        "bmg": "1740000 (30000), reward context",
        "q_lambda": "580000 (70000), best fixed epsilon",
        "q_lambda_bmg": "1930000 (30000), reward context",
    }


def test_published_totals_without_context_stand_beside_runs_without_it(tmp_path):
    world = {"env__swap_period": 100_000, "env__respawn": "all", "meta__context_length": 0}
    runs = _agents(tmp_path, spacing=125_000, **world)
    rows = table_rows(pool([read_run(run) for run in runs]))
    assert {row["group"]: row[PUBLISHED] for row in rows} == {
        "actor_critic": "1240000 (90000), best fixed entropy cost",  # it has no context anyway
        "mg": "1290000 (80000), no context",
        "bmg": "1320000 (80000), no context",
        "q_lambda": "580000 (70000), best fixed epsilon",
        "q_lambda_bmg": "1780000 (30000), no context",
    }


@pytest.mark.parametrize(
    ("points", "keys"),
    [
        (100, {"total_frames": 20_000_000}),
        (40, {"total_frames": 10_000_000, "status": "running"}),
        (80, {"total_frames": 10_000_000, "env__swap_period": 50_000}),
        (80, {"total_frames": 10_000_000, "env__respawn": "object"}),
        (80, {"total_frames": 10_000_000, "env": {"suite": "two_colours"}}),  # of before the key
        (
            80,
            {
                "total_frames": 10_000_000,
                "agent__algorithm": "mg",
                "meta__outer": {"entropy_cost": 0.0},
            },
        ),
    ],
)
def test_published_totals_stand_beside_no_others(tmp_path, points, keys):
    if "env" not in keys:
        keys = {"env__swap_period": 100_000, "env__respawn": "all"} | keys
    run = make_run(tmp_path / "a", noise(2, points), spacing=125_000, **keys)
    (row,) = table_rows(pool([read_run(run)]))
    assert PUBLISHED not in row


def test_worlds_are_not_mixed(tmp_path, capsys):
    """Runs of before the key are of `object`; each world has figures and rows of its own."""
    meta = {"entropy_cost": _schedule(2, 80)}
    keys = {"spacing": 125_000, "meta": meta, "env__swap_period": 100_000}
    old = make_run(tmp_path / "a", noise(2, 80), name="old", **keys)
    same = make_run(tmp_path / "b", noise(2, 80), first=2, env__respawn="object", **keys)
    new = make_run(tmp_path / "c", noise(2, 80) / 2, name="new", env__respawn="all", **keys)
    out = tmp_path / "out"
    run_report(old, same, new, out=out)
    rows = table(out)
    assert [(row["group"], row["respawn"], row["seeds"]) for row in rows] == [
        ("new", "all", "2"),
        ("old", "object", "4"),
    ]
    assert [row[PUBLISHED] for row in rows] == ["1740000 (30000), reward context", ""]
    for name in ("cumulative_reward", "schedule", "after_swap"):
        for world in ("all", "object"):
            assert (out / f"{name}_respawn_{world}.png").exists()
        assert not (out / f"{name}.png").exists()
    assert "2 worlds, env.respawn=all and env.respawn=object" in capsys.readouterr().out
    assert "2 worlds" in (out / "index.html").read_text()


def test_a_figure_for_each_swap_period(tmp_path):
    often = make_run(tmp_path / "a", noise(2, 80), name="often", env__swap_period=500)
    seldom = make_run(tmp_path / "b", noise(2, 80), name="seldom")
    run_report(often, seldom, out=tmp_path / "out")
    for name in ("schedule_every_500", "schedule_every_1000", "after_swap_every_500"):
        assert (tmp_path / "out" / f"{name}.png").exists()
    still = make_run(tmp_path / "c", noise(1, 80), env__suite="minatar")
    run_report(still, out=tmp_path / "still")
    names = {file.name for file in (tmp_path / "still").iterdir()}
    assert names == {
        *("cumulative_reward.png", "cumulative_reward.pdf", "table.md", "table.csv"),
        *("run_1_c.png", "index.html"),
    }


def test_one_point_of_one_seed(tmp_path):
    run = make_run(tmp_path / "a", [[5.0]], meta={"epsilon": [[0.1]]})
    assert report([str(run)], None, []) == 0
    (row,) = table(run)
    assert (row["total reward"], row["95% low"], row["total reward std"]) == ("5.0", "", "")


def test_beside_runs_of_one_seed(tmp_path):
    single = tmp_path / "single"
    single.mkdir()
    lines = [{"frames": 10 * i, "seconds": i, "episode_return": i} for i in (1, 2)]
    (single / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seeded = make_run(tmp_path / "seeded", noise(2, 20))
    run_report(single, seeded, out=tmp_path / "out")
    assert table(tmp_path / "out")[0]["run"] == "single"
    assert table(tmp_path / "out", "seeds_table")[0]["group"] == "grid"
    assert (tmp_path / "out/curve.png").exists()
    assert (tmp_path / "out/cumulative_reward.png").exists()


def test_both_kinds_of_folders_are_read_alike(tmp_path):
    (tmp_path / "one").mkdir()
    lines = [{"frames": 10, "episode_return": None}, {"frames": 20, "episode_return": 3.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "one/metrics.jsonl").write_text(text)
    one = read_run(tmp_path / "one")
    np.testing.assert_array_equal(one.curves["episode_return"], [[np.nan, 3.0]])
    frames, values = one.curve("episode_return")
    assert (frames.tolist(), values.tolist(), one.last("episode_return")) == ([20], [3.0], 3.0)
    assert one.curve("meta/epsilon")[0].size == 0
    assert one.last("seconds") is None
    epsilon = np.full((3, 5), 0.1)
    several = read_run(make_run(tmp_path / "three", noise(3, 5), meta={"epsilon": epsilon}))
    assert several.curves.keys() == {"reward", "meta/epsilon"}
    assert (one.end, several.end, several.seeds) == (20, 500, [0, 1, 2])
    assert {values.shape for values in several.curves.values()} == {(3, 5)}
    assert (one.together, several.together) == (False, True)


# Damage.


def _spoilt(**changes):
    def spoil(path):
        with np.load(path / "seeds.npz") as archive:
            arrays = dict(archive)
        arrays |= changes
        kept = {name: value for name, value in arrays.items() if value is not None}
        np.savez(path / "seeds.npz", **kept)

    return spoil


def _truncate(path):
    content = (path / "seeds.npz").read_bytes()
    (path / "seeds.npz").write_bytes(content[: len(content) // 2])


def _flip(path):
    content = bytearray((path / "seeds.npz").read_bytes())
    content[200:220] = bytes(20)
    (path / "seeds.npz").write_bytes(bytes(content))


def _write(name, content):
    return lambda path: (path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "file", "why"),
    [
        (_write("seeds.npz", b""), "seeds.npz", "damaged or empty"),
        (_write("seeds.npz", b"no archive"), "seeds.npz", "damaged or empty"),
        (_truncate, "seeds.npz", "damaged or empty"),
        (_flip, "seeds.npz", "damaged or empty"),
        (_spoilt(reward=None), "seeds.npz", "lacks reward"),
        (_spoilt(reward=np.zeros((2, 3))), "seeds.npz", r"\(2, 3\), not \(2, 20\)"),
        (_spoilt(**{"meta/epsilon": np.zeros(20)}), "seeds.npz", "meta/epsilon has shape"),
        (_spoilt(greedy_changes=np.zeros(20)), "seeds.npz", "greedy_changes has shape"),
        (_spoilt(reward=np.full((2, 20), np.nan)), "seeds.npz", "not finite"),
        (_spoilt(reward=np.array([[None] * 20] * 2)), "seeds.npz", "damaged or empty"),
        (_spoilt(seeds=np.array(["a", "b"])), "seeds.npz", "no numbers"),
        (_spoilt(seeds=np.array([3, 3])), "seeds.npz", "twice"),
        (_spoilt(frames=np.arange(20)), "seeds.npz", "do not increase"),
        (_spoilt(frames=np.arange(1, 41).reshape(2, 20)), "seeds.npz", "one dimension"),
        (_spoilt(frames=np.arange(0), reward=np.zeros((2, 0))), "seeds.npz", "no point yet"),
        (_spoilt(frames=np.arange(0), reward=None), "seeds.npz", "no point yet"),  # at its start
        (_write("config.yaml", b""), "config.yaml", "damaged or empty"),
        (_write("config.yaml", b"a: ["), "config.yaml", "damaged or empty"),
        (lambda path: (path / "config.yaml").unlink(), "config.yaml", "missing"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path, spoil, file, why):
    path = make_run(tmp_path / "a", noise(2, 20))
    spoil(path)
    with pytest.raises(ConfigError, match=why) as error:
        run_report(path, out=tmp_path / "out")
    assert str(path / file) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def _episodes(path, level, *, game="breakout", **keys):
    """A run whose two seeds end with returns of `level` - 1 and `level` + 1, and begin with 0."""
    returns = np.zeros((2, 40))
    returns[:, -4:] = [[level - 1], [level + 1]]
    returns[:, 5] = np.nan
    given = {"env__suite": "minatar", "env__game": game, "seeds": 2, **keys}
    return make_run(path, noise(2, 40), returns=returns, **given)


def test_returns_of_episodes_are_drawn_and_tabulated(tmp_path, capsys):
    runs = [_episodes(tmp_path / game, 5, game=game) for game in ("breakout", "asterix")]
    assert report(list(map(str, runs)), str(tmp_path / "out"), []) == 0
    assert "2 worlds, env.game=asterix and env.game=breakout" in capsys.readouterr().out
    for game in ("breakout", "asterix"):
        assert (tmp_path / "out" / f"episode_return_game_{game}.png").stat().st_size > 10_000
    assert not list((tmp_path / "out").glob("cumulative_reward*"))
    assert not list((tmp_path / "out").glob("sensitivity*"))
    with (tmp_path / "out" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["episode return, last 10%"]) for row in rows] == [5.0, 5.0]
    half = stats.t.ppf(0.975, 1)  # of the standard error of 4 and 6, which is 1
    assert float(rows[0]["95% low of it"]) == pytest.approx(5 - half, abs=1e-3)


def test_groups_are_ranked_by_the_return_of_their_episodes(tmp_path):
    """Total reward would have it the other way round."""
    for name, level, reward in (("worse", 3, 9.0), ("better", 8, 1.0)):
        folder = _episodes(tmp_path / name, level, name=name, meta__learning_rate=level)
        with np.load(folder / "seeds.npz") as file:
            arrays = dict(file)
        np.savez(folder / "seeds.npz", **{**arrays, "reward": np.full((2, 40), reward)})
    run_report(tmp_path / "worse", tmp_path / "better", out=tmp_path / "out")
    assert [row["group"] for row in table(tmp_path / "out")] == ["better", "worse"]


def test_two_starting_values_are_drawn_and_agents_of_one_algorithm_apart(tmp_path):
    for start in (0.03, 0.3):
        for name, level in (("bmg", 6.0), ("bmg_other", 4.0 + start)):
            keys = {"agent__algorithm": "bmg", "agent__entropy_cost": start}
            keys["meta__learning_rate"] = level if name == "bmg" else 0.0
            _episodes(tmp_path / f"{name}-{start}", level, name=name, **keys)
        _episodes(tmp_path / f"i-{start}", 2.0, name=f"i{start}", agent__entropy_cost=start)
    groups = pool([read_run(path) for path in sorted(tmp_path.iterdir())])
    (found,) = sensitivities(groups)
    assert found.key == "agent.entropy_cost"
    assert list(found.lines) == ["actor_critic", "bmg", "bmg, bmg_other"]
    assert all(list(points) == [0.03, 0.3] for points in found.lines.values())
    assert float(found.lines["bmg, bmg_other"][0.3].value) == pytest.approx(4.3 / 6)
    assert (found.games, found.seeds) == (1, [2])
    pyplot().close(draw_sensitivity(found))


def test_sensitivity_to_starting_values(tmp_path):
    """Against numbers by hand: two games, three starts; an agent that loses, one that tunes."""
    levels = {"impala": {0.001: 2.0, 0.01: 10.0, 0.1: 5.0}, "bmg": {0.001: 9.0, 0.01: 10.0, 0.1: 9}}
    for algorithm, of_starts in levels.items():
        for start, level in of_starts.items():
            for game, scale in (("breakout", 1), ("asterix", 3)):
                keys = {"agent__algorithm": algorithm, "agent__entropy_cost": start}
                folder = tmp_path / "runs" / f"{algorithm}-{start}-{game}"
                _episodes(folder, scale * level, game=game, **keys)
    # One more start of another hyper-parameter, which is not of this comparison.
    _episodes(tmp_path / "runs" / "other", 50, game="other", agent__discount=0.5)
    assert report([str(tmp_path / "runs")], str(tmp_path / "out"), []) == 0
    assert (tmp_path / "out" / "sensitivity_entropy_cost.png").stat().st_size > 10_000
    assert len(list((tmp_path / "out").glob("sensitivity_*.png"))) == 1
    with (tmp_path / "out" / "sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert {row["hyper-parameter"] for row in rows} == {"agent.entropy_cost"}
    for row in rows:
        level = levels[row["algorithm"]][float(row["start"])]
        # The middle two of (level - 1) / 10, (level + 1) / 10 and (3 level -+ 1) / 30.
        share = float(row["IQM of return / best of its game"])
        assert share == pytest.approx(level / 10, abs=1e-3)
        assert float(row["95% low"]) <= share <= float(row["95% high"])
        assert float(row["share of its own best"]) == pytest.approx(level / 10, abs=1e-2)
