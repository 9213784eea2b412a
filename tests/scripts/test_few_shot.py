"""Configurations of few-shot learning, what of them is refused, and what is reported of them."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from configs.load import ConfigError, dump, load, named_configs
from scripts.check import all_faults, check
from scripts.few_shot import build_few_shot_learner, build_tasks
from scripts.report.few_shot import final, measure, reached
from scripts.report.report import report
from scripts.report.runs import Run

FEW_SHOT = [name for name in named_configs() if name.startswith("few_shot/")]
REFUSED = [
    ("sinusoid_bmg", "few_shot.ways=5", "must be 1"),
    ("sinusoid_bmg", "few_shot.folder=/tmp", "few_shot.folder=/tmp: acts nowhere"),
    ("sinusoid_bmg", "agent.network=four_blocks", "dense_40"),
    ("sinusoid_bmg", "agent.algorithm=stacx", "maml, fomaml, bmg"),
    ("sinusoid_bmg", "meta.matching=kl_value", "l2, kl, reverse_kl"),
    ("sinusoid_bmg", "meta.learned=[discount]", "learning_rate_scale"),
    ("sinusoid_bmg", "learner.optimizer=adam", "must be sgd"),
    ("sinusoid_bmg", "replay.unrolls=1", "replay.unrolls=1: acts nowhere"),
    ("sinusoid_bmg", "agent.learning_rate_scale=0.5", "acts nowhere"),
    ("sinusoid_bmg", "actors.runtime=ray", "on_device"),
    ("glyphs_bmg", "few_shot.ways=1", "at least 2"),
    ("images_bmg", "few_shot.ways=5", "few_shot.folder=null"),
]
UNREADABLE = [
    ("meta.inner_steps=0", "greater than or equal to 1"),
    ("meta.bootstrap_steps=0", "greater than or equal to 1"),
    ("few_shot.shots=0", "greater than or equal to 1"),
    ("few_shot.target_data=all", "support, query, both"),
]


def test_the_shipped_ones_can_be_trained():
    assert {name.split("/")[1] for name in FEW_SHOT} == {
        f"{tasks}_{algorithm}"
        for tasks in ("sinusoid", "glyphs", "images")
        for algorithm in ("maml", "fomaml", "bmg")
    }
    for name in FEW_SHOT:
        faults = all_faults(load(name))
        assert [fault.partition("=")[0] for fault in faults] == (
            ["few_shot.folder"] if "images" in name else []
        )


@pytest.mark.parametrize(("name", "override", "words"), REFUSED)
def test_refused_in_a_line(name, override, words):
    faults = all_faults(load(f"few_shot/{name}", [override]))
    assert len(faults) == 1
    assert words in faults[0]
    assert "\n" not in faults[0]


@pytest.mark.parametrize(("override", "words"), UNREADABLE)
def test_values_that_cannot_be(override, words):
    with pytest.raises(ConfigError) as error:
        load("few_shot/sinusoid_bmg", [override])
    assert words in str(error.value)


def test_maml_is_what_it_is():
    maml = load("few_shot/sinusoid_maml").meta
    assert (maml.bootstrap_steps, maml.matching, maml.l2_weight) == (1, "l2", 0.5)
    with pytest.raises(ConfigError, match="bootstrap_steps=1"):
        load("few_shot/sinusoid_maml", ["meta.bootstrap_steps=3"])


def test_other_suites_have_no_tasks():
    for name in ("catch/bmg", "two_colours/bmg"):
        (fault,) = all_faults(load(name, ["few_shot.shots=5"]))
        assert fault.startswith("few_shot.shots=5: acts nowhere")
        (fault,) = all_faults(load(name, ["agent.network=dense_40"]))
        assert fault.startswith("agent.network=dense_40")


def images(folder, counts):
    for split, of_classes in counts.items():
        for index, count in enumerate(of_classes):
            of_class = folder / split / f"{split}-{index}"
            of_class.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((18, 18), 9 * number + index, np.uint8)
                Image.fromarray(pixels).save(of_class / f"{number}.png")


def test_tasks_larger_than_a_folder_are_refused(tmp_path):
    images(tmp_path, {"train": [4, 4, 4], "val": [4, 3], "test": [4, 4]})

    def faults(*overrides):
        given = (f"few_shot.folder={tmp_path}", "few_shot.image_size=18", *overrides)
        return all_faults(load("few_shot/images_bmg", given))

    assert faults("few_shot.ways=2", "few_shot.queries=2") == []
    (fault,) = faults("few_shot.ways=3", "few_shot.queries=2")
    assert fault.startswith("few_shot.ways=3: the split validation has 2 classes")
    (fault,) = faults("few_shot.ways=2", "few_shot.shots=2", "few_shot.queries=2")
    assert "takes 4 images of a class, and one in the split validation has 3" in fault
    (fault,) = faults("few_shot.ways=2", "few_shot.queries=2", "few_shot.image_size=12")
    assert "at least 16 pixels" in fault


def test_glyphs_have_so_many_classes():
    config = load("few_shot/glyphs_bmg", ["few_shot.ways=10000"])
    check(config)
    with pytest.raises(ConfigError, match="ways=10000: the split train has"):
        build_tasks(config.few_shot, config.env.game, config.agent.network)


@pytest.mark.ci
def test_a_point_has_a_validation_on_the_same_tasks_for_all_seeds(tmp_path, monkeypatch):
    """And the cosine of the two meta-gradients; learned rates are told by layer."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where images are cached
    images(tmp_path, {"train": [3, 3, 3], "val": [3, 3], "test": [3, 3]})
    tasks = ("few_shot.ways=2", "few_shot.queries=2", "learner.batch_size=2")
    small = ("few_shot.validate_every=2", "few_shot.validation_tasks=3", "seeds=2")
    config = load(
        "few_shot/images_bmg",
        [
            *(*tasks, *small, f"few_shot.folder={tmp_path}", "few_shot.image_size=4"),
            *("agent.network=dense_40", "meta.learned=[learning_rate_scale]"),
            *("meta.inner_steps=1", "meta.bootstrap_steps=2", "few_shot.validation_steps=[1, 2]"),
        ],
    )
    tasks = build_tasks(config.few_shot, config.env.game, config.agent.network)
    learner = build_few_shot_learner(config, tasks)
    assert (learner.steps, learner.updates) == (4, 2)
    state, metrics = learner.step(learner.place(learner.initial_state()))
    for name in ("support_loss_before", "query_loss_after_1", "accuracy_after_2"):
        assert metrics[f"validation/{name}"].shape == (2,)
    right = 3 * 4 * np.asarray(metrics["validation/accuracy_before"])  # of 3 tasks with 4 queries
    np.testing.assert_allclose(right, np.round(right), atol=1e-4)
    assert (np.abs(metrics["meta/cosine"]) <= 1.0).all()
    scales = {k: v for k, v in metrics.items() if k.startswith("meta/learning_rate_scale/")}
    assert len(scales) == 3
    for values in scales.values():
        np.testing.assert_allclose(values / metrics["updates"], 1.0, atol=5e-3)
    assert (metrics["meta/gradient/learning_rate_scale"] > 0.0).all()
    del state


def run_of(losses, algorithm="maml"):
    losses = np.asarray(losses, float)
    tasks = 25.0 * np.arange(1, losses.shape[1] + 1)
    config = {"meta.inner_steps": 1, "learner.batch_size": 25, "agent.algorithm": algorithm}
    curves = {"validation/query_loss_after_1": losses, "validation/query_loss_after_10": losses}
    return Run(None, config, {}, list(range(len(losses))), tasks, curves, tasks / 5, [], True, {})


def test_where_a_run_is_as_good_as_a_level():
    """By the mean of all seeds over the last five points."""
    run = run_of([[8, 6, 4, 2, 2, 2, 2, 2, 2, 0], [8, 6, 4, 2, 2, 2, 2, 2, 2, 2]])
    assert measure(run) == "validation/query_loss_after_1"
    np.testing.assert_array_equal(final(run), [0, 2])
    assert reached(run, 4.4) == 4  # (8 + 6 + 4 + 2 + 2) / 5
    assert reached(run, 2.0) == 7
    assert reached(run, 1.0) is None


def write_run(folder, algorithm, curve, seconds_each):
    """A run of two seeds whose error after one step follows a curve."""
    folder.mkdir()
    config = load(f"few_shot/sinusoid_{algorithm}", ["seeds=2", f"name={algorithm}"])
    (folder / "config.yaml").write_text(dump(config))
    tasks = 250 * np.arange(1, len(curve) + 1)
    losses = np.asarray(curve, float) + np.array([[-0.1], [0.1]])
    curves = {f"validation/query_loss_after_{n}": losses for n in (1, 5, 10)}
    np.savez(folder / "seeds.npz", frames=tasks, seeds=np.arange(2), **curves)
    # The first line took a minute to compile.
    lines = [{"frames": int(t), "seconds": 60.0 + seconds_each * t / 250} for t in tasks]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"status": "finished"}))
    result = {"steps": 1, "mean": 0.5, "interval": [0.4, 0.6], "interval_over_seeds": [0.3, 0.7]}
    (folder / "evaluation.json").write_text(json.dumps({"query_loss": [result]}))
    return folder


def test_bmg_stands_beside_maml(tmp_path, capsys):
    """With half the steps and twice the time of a step it takes as long."""
    slow, fast = [4.0] * 19 + [1.0] * 21, [4.0] * 9 + [1.0] * 31
    maml = write_run(tmp_path / "maml", "maml", slow, 1.0)
    bmg = write_run(tmp_path / "bmg", "bmg", fast, 2.0)
    assert report([str(maml), str(bmg)], str(tmp_path / "out"), []) == 0
    with (tmp_path / "out" / "table.csv").open() as file:
        rows = {row["algorithm"]: row for row in csv.DictReader(file)}
    assert rows["maml"]["steps to MAML's end, of MAML's"] == "1.0"
    # The running mean of five points gets there four points after the fall.
    assert float(rows["bmg"]["steps to MAML's end, of MAML's"]) == pytest.approx(14 / 24, abs=1e-3)
    assert float(rows["bmg"]["seconds, of MAML's"]) == pytest.approx(28 / 24, abs=1e-3)
    assert (rows["bmg"]["meta-steps"], rows["bmg"]["tasks"]) == ("400", "10000")
    assert float(rows["bmg"]["seconds"]) == pytest.approx(80.0)
    assert rows["bmg"]["last 10%"] == "1.0"
    assert rows["bmg"]["test query_loss after 1"] == "0.5000 (0.3000 to 0.7000)"
    assert (rows["maml"]["L"], rows["bmg"]["L"]) == ("", "5")
    capsys.readouterr()


def spoil_curves(folder, **changes):
    with np.load(folder / "seeds.npz") as saved:
        content = {name: saved[name] for name in saved.files} | changes
    np.savez(folder / "seeds.npz", **content)


SPOILT = {
    "cut": lambda f: (f / "seeds.npz").write_bytes((f / "seeds.npz").read_bytes()[:99]),
    "no points": lambda f: spoil_curves(f, frames=np.zeros(0)),
    "unlike": lambda f: spoil_curves(f, **{"validation/query_loss_after_1": np.ones(3)}),
    "one number": lambda f: spoil_curves(f, frames=np.asarray(3)),
    "texts": lambda f: spoil_curves(f, frames=np.asarray(["a"])),
    "backwards": lambda f: spoil_curves(f, frames=np.arange(6)[::-1]),
}


def test_what_cannot_be_read_is_told_in_a_line(tmp_path, capsys):
    for name, spoil in SPOILT.items():
        folder = write_run(tmp_path / name, "bmg", [2.0] * 6, 1.0)
        spoil(folder)
        with pytest.raises(ConfigError) as error:
            report([str(folder)], str(tmp_path / "out"), [])
        assert str(folder / "seeds.npz") in str(error.value)
        assert "\n" not in str(error.value)
    folder = write_run(tmp_path / "half", "bmg", [2.0] * 6, 1.0)
    (folder / "evaluation.json").write_text('{"query_loss": [{"mean": "x"}]}')
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"frames": 99999, "seconds": [1]}\n{"frames": ')
    (folder / "summary.json").write_text("[]")
    spoil_curves(folder, **{"validation/query_loss_after_1": np.full((2, 6), np.nan)})
    assert report([str(folder)], str(tmp_path / "out"), []) == 0
    assert "unfinished" in capsys.readouterr().out
