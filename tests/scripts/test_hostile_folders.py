"""Run folders in which anything may stand: nothing that reads one ends in a traceback.

Each variation spoils one file of a whole run. Resuming, evaluating, a sweep's status and reports
then read it by their own code, all in one process.
"""

import csv
import functools
import html
import json
import logging
import os
import re
import shutil
import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from configs.load import ConfigError, dump, load
from learner.checkpoint import CheckpointError, Checkpoints
from learner.loop import Progress
from learner.reading import Unreadable, last_metrics
from learner.run_folder import RunFolder, RunLocked, forget_after, locked
from scripts import evaluate, evaluation, record, resuming
from scripts.check import RunFailed
from scripts.folders import check_run_folder
from scripts.report.comparison import compare
from scripts.report.game_tables import evaluation_rows, game_rows
from scripts.report.report import report
from scripts.report.runs import read_run
from scripts.sweep.display import SweepDisplay
from scripts.sweep.trials import Task, has_checkpoint, is_finished
from tests.scripts.synthetic_runs import write_run

# What a JSON value or a line may be instead of what it should be.
WRONG = [None, True, -1, 1e200, 10**400, float("nan"), "\ud800\x1b[2J$\\frac{$²", [[]], {"a": {}}]
BYTES = {
    **{"nothing": b"", "one byte": b"\xff", "binary": bytes(range(256)), "five": b"5\n"},
    **{"a list": b"[]", "a text": b'"x"', "null": b"null\n", "utf-16": '{"a": 1}'.encode("utf-16")},
    **{"deep": b"[" * 100_000, "deep keys": b'{"a":' * 5_000 + b"1" + b"}" * 5_000},
    **{"open": b'{"status', "bomb": b"a: &a [1]\nb: &b [*a,*a]\nc: [*b,*b]\n", "tab": b"a:\t[\n"},
}
EVALUATION = {
    **{"mean_return": 1.0, "standard_error": None, "episodes": 3, "policy": "sample"},
    **{"evaluation_protocol": "training", "frames": 8, "snapshot": True, "learner_updates": 2},
    "protocol": {"game": "pong", "sticky_actions": 0.0, "actions": 6},
}


class State(NamedTuple):
    inner: np.ndarray


class Variation(NamedTuple):
    name: str
    spoil: object  # called with the run folder


def whole_run(folder, seed=0, status="finished"):
    """A run of several files."""
    write_run(folder, "bmg", "pong", seed, 3.0, lines=4, status=status)
    (folder / "evaluation-at-8.json").write_text(json.dumps(EVALUATION))
    (folder / "log.txt").write_text("a warning\n")
    return folder


def learned_run(folder):
    """With two checkpoints, of which the first has fewer frames than the metrics."""
    whole_run(folder)
    for updates in (1, 2):
        state = State(np.full(3, updates, np.float32))
        progress = Progress(frames=10**8 * updates, updates=updates, starts=1)
        Checkpoints(folder / "checkpoints", 3).save(state, progress)
    return folder


def seeds_run(folder, seed=0):
    """A run of several seeds in one program."""
    folder.mkdir(parents=True)
    config = load("two_colours/bmg", (f"seed={seed}", "seeds=2", "total_frames=400"))
    (folder / "config.yaml").write_text(dump(config))
    (folder / "summary.json").write_text(json.dumps({"status": "finished"}))
    np.savez(folder / "seeds.npz", **_curves(seed))
    return folder


def _curves(seed=0):
    rows = np.ones((2, 4), np.float32)
    return {
        **{"frames": np.arange(100, 500, 100), "seeds": np.arange(seed, seed + 2)},
        **{"reward": rows, "meta/entropy_cost": rows},
    }


def _bytes(name, content):
    return lambda run: (run / name).write_bytes(content)


def _half(name):
    def halve(run):
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: len(content) // 2])

    return halve


def _instead(name, make):
    def replace(run):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return replace


def _json(name, *keys, value):
    """With another value at a key, at any level."""

    def change(run):
        content = json.loads((run / name).read_text())
        node = content
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        (run / name).write_text(json.dumps(content))

    return change


def _without(name, key):
    def change(run):
        content = json.loads((run / name).read_text())
        del content[key]
        (run / name).write_text(json.dumps(content))

    return change


def _line(key, value):
    """The second line of four says something else."""

    def change(run):
        lines = (run / "metrics.jsonl").read_text().splitlines()
        lines[1] = json.dumps({**json.loads(lines[1]), key: value})
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")

    return change


def _added_line(content):
    """In the middle and at the end."""

    def change(run):
        lines = (run / "metrics.jsonl").read_bytes().splitlines()
        (run / "metrics.jsonl").write_bytes(
            b"\n".join([*lines[:2], content, *lines[2:], content]) + b"\n"
        )

    return change


def _yaml(key, value):
    return lambda run: (run / "config.yaml").write_text(
        re.sub(rf"(?m)^( *{key}:) .*$", rf"\1 {value}", (run / "config.yaml").read_text())
    )


INSTEAD = {
    "a folder": Path.mkdir,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "unreadable": lambda path: path.symlink_to("/proc/self/mem"),  # EIO, for root as well
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": os.mkfifo,
    "absent": lambda path: None,
    "without permission": lambda path: (path.write_text("{}"), path.chmod(0)),
}
NAMES = ("²", "٣", "-1", "007", "1e3", "9" * 200, "incomplete-7", "\udcff", "3.partial")


def _files(files):
    for file in files:
        for name, content in BYTES.items():
            yield Variation(f"{file}: {name}", _bytes(file, content))
        yield Variation(f"{file}: half", _half(file))
        for name, make in INSTEAD.items():
            yield Variation(f"{file}: {name}", _instead(file, make))


def of_a_run():
    """Each spoils what reports and sweeps read."""
    files = ("metrics.jsonl", "summary.json", "evaluation-at-8.json", "log.txt")
    yield from _files(files)
    for value in WRONG:
        for key in ("status", "name", "seed", "total_frames", "protocol", "versions", "frames"):
            yield Variation(f"summary {key}={value!r}", _json("summary.json", key, value=value))
        for key in ("game", "sticky_actions", "suite", "ale_py"):
            change = _json("summary.json", "protocol", key, value=value)
            yield Variation(f"protocol {key}={value!r}", change)
        for key in EVALUATION:
            change = _json("evaluation-at-8.json", key, value=value)
            yield Variation(f"evaluation {key}={value!r}", change)
        for key in ("frames", "episode_return", "meta/discount", "frames_per_second", "seconds"):
            yield Variation(f"line {key}={value!r}", _line(key, value))
    for key in EVALUATION:
        yield Variation(f"evaluation without {key}", _without("evaluation-at-8.json", key))
    for name, content in BYTES.items():
        yield Variation(f"line {name}", _added_line(content.replace(b"\n", b"")))


def of_a_configuration():
    """Each spoils config.yaml."""
    yield from _files(["config.yaml"])
    for key in ("seed", "total_frames", "name", "env", "every_frames", "learned", "sticky_actions"):
        for value in ("x", "[]", "null", ".nan", "-1", "10" * 200):
            yield Variation(f"config {key}: {value}", _yaml(key, value))


def of_checkpoints():
    """Each spoils the newest checkpoint, or puts something beside it."""
    newest = "checkpoints/2"
    for file in (f"{newest}/manifest.json", f"{newest}/progress.json"):
        for name in ("nothing", "one byte", "five", "a list", "null", "deep"):
            yield Variation(f"{file}: {name}", _bytes(file, BYTES[name]))
        for name in ("a folder", "a dangling link", "unreadable", "endless", "a pipe"):
            yield Variation(f"{file}: {name}", _instead(file, INSTEAD[name]))
    for value in (5, None, [1], {"a": 1}):
        change = _json(f"{newest}/manifest.json", "progress.json", value=value)
        yield Variation(f"manifest progress.json={value!r}", change)
    yield Variation("manifest {}", _bytes(f"{newest}/manifest.json", b"{}"))
    for name in NAMES:
        for kind in ("a folder", "a dangling link", "a pipe"):
            make = INSTEAD[kind]
            yield Variation(
                f"{name!r}: {kind}", lambda run, n=name, m=make: m(run / "checkpoints" / n)
            )
    for name in ("a folder", "a dangling link", "a pipe", "absent"):
        yield Variation(f"{newest}: {name}", _instead(newest, INSTEAD[name]))
        yield Variation(f"3: {name}", lambda run, m=INSTEAD[name]: m(run / "checkpoints/3"))


def _resume(run):
    """As `bmg train --resume`, up to the first update and the checkpoint after it."""
    _begin_to_resume(run)
    config = load(str(run / "config.yaml"))
    checkpoints = record.open_checkpoints(config, run, resume=True)
    state, progress = record.starting_point(State(np.zeros(3, np.float32)), checkpoints, run, True)
    assert state.inner[0] == progress.updates > 0  # what was learned
    following = Progress(frames=progress.frames + 4, updates=progress.updates + 1)
    checkpoints.save(state, following)
    _, found = checkpoints.restore(state)
    assert found == following


def _begin_to_resume(run):
    """What `bmg train --resume` reads beside checkpoints, and writes then."""
    check_run_folder(run, resume=True)
    resuming.check_frames(2 * 10**8, None, run)
    with locked(run):
        forget_after(run, 15 * 10**7)
        folder = RunFolder(run, tensorboard=False)
        folder.log({"frames": 15 * 10**7 + 4, "episode_return": 1.0})
        folder.write_summary("running")
        folder.close()
    assert last_metrics(run)["frames"] == 15 * 10**7 + 4


def _configuration(run):
    """As `--resume` and `bmg evaluate` read it."""
    config = load("atari/bmg", ("env.game=pong", "seed=0", "name=bmg"))
    resuming.check_same_run(config, run)


def _evaluate(run):
    """What `bmg evaluate` reads beside checkpoints and the configuration."""
    evaluate._is_played(run / "evaluation-at-8.json")
    evaluation._learned(run)


def _status(run):
    """As a sweep looks at its trials."""
    task = Task(run.name, "", (), run, 10**8, True, run)
    is_finished(task)
    has_checkpoint(run)
    display = SweepDisplay("sweep", run.parent, [task])
    display.show({})
    display.end({})


def _outcome(function, *arguments):
    """None, or the one line that a user sees.

    Raises:
        Exception: what would be a traceback.
    """
    try:
        function(*arguments)
    except (ConfigError, RunFailed, RunLocked, CheckpointError, Unreadable) as error:
        return str(error)
    except OSError as error:  # which `main` makes a line of, where it names a file
        if error.filename is None:
            raise
        return str(error)
    return None


def _all(variations, folder, whole, *functions):
    """Tries all; what each user would see, after those that end in a traceback."""
    failed, said = [], {}
    for index, variation in enumerate(variations):
        run = folder / str(index)
        shutil.copytree(whole, run)
        variation.spoil(run)
        for function in functions:
            try:
                said[variation.name, function.__name__] = _outcome(function, run)
            except Exception as error:  # the test shows all of them
                where = traceback.extract_tb(error.__traceback__)[-1]
                text = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
                failed.append(f"{variation.name}: {function.__name__}: {text[-300:]}")
    assert not failed, f"{len(failed)} tracebacks\n" + "\n".join(failed)
    return said


@pytest.mark.ci
def test_files_of_a_run(tmp_path, caplog, capsys):
    whole = whole_run(tmp_path / "whole")
    for seed in (7, 8):
        whole_run(tmp_path / f"good-{seed}", seed)
    _all(of_a_configuration(), tmp_path / "configurations", whole, _configuration, _compared)
    readers = (_status, _evaluate, _compared, _begin_to_resume)
    said = _all(of_a_run(), tmp_path / "runs", whole, *readers)
    capsys.readouterr()
    for name in ("one byte", "five", "a list", "deep"):
        assert said[f"line {name}", "_begin_to_resume"] is None
        assert said[f"line {name}", "_compared"] is None
    assert "line 3 cannot be read, and stays as it is" in caplog.text
    for name in ("a folder", "a pipe", "endless"):
        line = said[f"metrics.jsonl: {name}", "_begin_to_resume"]
        assert line.endswith("its metrics.jsonl is no file; move it away")
    assert all(len(line.splitlines()) == 1 for line in said.values() if line)
    assert all(len(record.getMessage().splitlines()) == 1 for record in caplog.records)


@pytest.mark.ci
def test_checkpoints(tmp_path, caplog):
    """A run goes on from what is whole, whatever stands beside it."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    said = _all(of_checkpoints(), tmp_path / "runs", learned_run(tmp_path / "whole"), _resume)
    assert not [f"{name}: {line}" for name, line in said.items() if line]


_whole = functools.cache(read_run)


def _compared(run):
    """What a report knows before it draws; two whole runs stand beside this one."""
    whole = [_whole(path) for path in sorted(run.parents[1].glob("good-*"))]
    for comparison in compare([read_run(run), *whole]):
        game_rows(comparison)
        evaluation_rows(comparison)


# Reports.

NAMED = ("line one byte", "line five", "metrics.jsonl: five", "evaluation-at-8.json: half")


def _rows(file):
    with file.open() as stream:
        return list(csv.DictReader(stream))


def test_one_report_of_all(tmp_path, caplog, capsys):
    """What can be read is drawn, the rest is named: in the page, and in a line each on stderr."""
    runs = tmp_path / "runs"
    odd = [variation for variation in of_a_run() if variation.name.startswith(NAMED)]
    for index, variation in enumerate(odd):
        variation.spoil(whole_run(runs / f"odd-{index}", seed=index, status="interrupted"))
    whole_run(runs / "good", seed=100, status="interrupted")
    (runs / "sweep.yaml").write_text("trials: 5\n")
    spoilt = seeds_run(runs / "seeds")
    (spoilt / "summary.json").write_text("[]")
    np.savez(runs / "seeds/seeds.npz", **_curves())
    assert report([str(runs)], str(tmp_path / "out"), []) == 0
    told = [record.getMessage() for record in caplog.records]
    page = (tmp_path / "out/index.html").read_text()
    for place in [f"odd-{index}" for index in range(len(odd))] + ["seeds", "sweep.yaml"]:
        (line,) = (line for line in told if re.search(rf"/{place}\b", line))
        assert line.startswith("bmg: left out: ")
        assert html.escape(line.removeprefix("bmg: ")) in page
    drawn = {row["run"] for row in _rows(tmp_path / "out/table.csv")}
    assert drawn == {"good", "odd-1", "odd-2", "odd-3"}  # the first one has no metrics
    assert _rows(tmp_path / "out/seeds_table.csv")[0]["seeds"] == "2"


def test_a_pickle_in_an_archive_is_never_loaded(tmp_path):
    """It would run a stranger's code."""

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    run = seeds_run(tmp_path / "seeds")
    np.savez(run / "seeds.npz", **{**_curves(), "reward": np.array([Bomb()], object)})
    with pytest.raises(ConfigError, match=r"seeds\.npz cannot be read"):
        report([str(run)], str(tmp_path / "out"), [])
    np.savez(tmp_path / "experience.npz", a=np.array([Bomb()], object))
    checkpoints = Checkpoints(tmp_path, 1)
    (tmp_path / "7").mkdir()
    (tmp_path / "experience.npz").rename(tmp_path / "7/experience.npz")
    with pytest.raises(ValueError, match="pickle"):
        checkpoints.experience(Progress(updates=7))
    assert not (tmp_path / "exploded").exists()
