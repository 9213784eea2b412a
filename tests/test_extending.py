"""docs/extending.md holds: each of its files is run as it stands there, by the command below it."""

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actors.environments import suites
from actors.environments.vector import EnvironmentRefused
from agents import algorithm, hyperparameters, matching, networks, objectives
from agents.hyperparameters import Learned
from bmg import load_policy
from configs.load import ConfigError, dump, load
from configs.names import TABLES
from scripts import plugins
from scripts.check import all_faults, check, environment_spec
from scripts.report.runs import learned_in, read_run
from scripts.settings import make_settings
from scripts.train import train
from tests import small
from tests.agents import test_meta_gradient
from tests.system.command import PATIENCE, ROOT, bmg, read_metrics, read_summary

_DOC = (ROOT / "docs" / "extending.md").read_text()
_FOUND = re.findall(r"```python\n(# (\w+)\.py\n.*?)```\n\n((?:    [^\n]*\n)+)", _DOC, re.DOTALL)
FILES = {name: text for text, name, _ in _FOUND}
# The words of each command that stands below a file, without `uv run bmg`.
COMMANDS = {name: shlex.split(words.replace("\\\n", " "))[3:] for _, name, words in _FOUND}
_SHORT = ("logging.tensorboard=false", "actors.count=1", "checkpoint.keep=1")
_TABLES = (
    *(suites.SUITES, networks.NETWORKS, objectives.OBJECTIVES, matching.MATCHING),
    *(hyperparameters.HYPERPARAMETERS, algorithm.ALGORITHMS),
)


# `bmg report` of a run, and then which plugins this process has imported.
_REPORT = """
import sys
from scripts.report.report import report
report([sys.argv[1]], None, [], None, None)
print("imported" if any(name.startswith("my_") for name in sys.modules) else "none")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the files of the document; nothing of them stays in this process."""
    before = [dict(table) for table in _TABLES]
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    hook, modules = sys.unraisablehook, set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    plugins._fault.cache_clear()
    yield tmp_path
    for table, entries in zip(_TABLES, before, strict=True):
        table.clear()
        table.update(entries)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    plugins._fault.cache_clear()
    sys.unraisablehook = hook
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _train(folder, *names):
    """Trains in this process by commands of the document at once; returns lines of metrics."""
    named = [word for name in names for word in COMMANDS.get(name, ["train", "", name])[2:]]
    short = ("total_frames=1300", "actors.runtime=in_process", "logging.every_seconds=0.01")
    words = [*named, f"plugins={_plugins(named)}", *_SHORT, *short]
    assert train(COMMANDS[names[0]][1], words, str(folder / "run"), False) == 0
    assert read_summary(folder / "run")["status"] == "finished"
    return read_metrics(folder / "run")


def _plugins(words):
    found = [word.partition("=")[2] for word in words if word.startswith("plugins=")]
    return f"[{','.join(word.strip('[]') for word in found)}]"


def test_every_kind_has_a_file_and_a_command(folder):
    """Which is no bad one, by itself."""
    assert len(FILES) == _DOC.count("```python") == 8
    for key in ("env.suite", "agent.network", "agent.objective", "meta.matching", "meta.learned"):
        assert sum(key in word for words in COMMANDS.values() for word in words) >= 1, key
    for command, source, *overrides in COMMANDS.values():
        assert command == "train"
        assert all_faults(load(source, overrides, plugins.import_all)) == []


def test_names_of_what_is_built_in():
    """configs/names.py knows them without importing what they stand for."""
    for key, table in TABLES.items():
        entries = getattr(sys.modules[table.module], table.attribute)
        assert set(entries) == set(table.built_in), key


def test_an_algorithm_on_an_environment_of_gymnasium(folder, caplog):
    """Whose run says which files it runs, where nothing but its own folder names them."""
    last = _train(folder, "my_maze", "my_algorithm")[-1]
    assert last["learner_updates"] == 3
    assert np.isfinite(last["loss/total"])
    file = folder / "run" / "config.yaml"
    assert load(str(file)).plugins == ["my_algorithm"]
    assert train(str(file), ["total_frames=2500"], str(folder / "run"), True) == 0
    assert read_metrics(folder / "run")[-1]["learner_updates"] == 5
    assert "is run" not in caplog.text
    assert train(None, ["total_frames=2600"], str(folder / "run"), True) == 0
    for what in ("plugin my_algorithm", "environment my_maze"):
        told = f"names the {what}: {folder / what.split()[1]}.py is run"
        assert [told in record.message for record in caplog.records].count(True) == 1, what
    caplog.clear()
    assert load_policy(folder / "run").updates == 5
    (warning,) = caplog.records
    assert f"names the environment my_maze: {folder / 'my_maze.py'} is run" in warning.message
    with pytest.raises(ConfigError, match=r"plugins=\['my_algorithm', 'my_loss'\]: the run in"):
        train(str(file), ["plugins=[my_algorithm,my_loss]"], str(folder / "run"), True)


def test_an_environment_on_the_device_has_a_view_on_the_host(folder):
    last = _train(folder, "my_line", "seeds=1")[-1]
    assert last["episodes"] > 0
    assert 0.0 < last["episode_return"] <= 1.0


def test_a_hyperparameter_and_a_matching_function(folder):
    """Its fixed, outer and upper values are keys, and it is learned."""
    last = _train(folder, "my_matching", "my_hyperparameter", "meta.bootstrap_steps=1")[-1]
    assert 0.0 < last["meta/advantage_scale"] < 1.5
    assert abs(last["meta/advantage_scale"] - 0.5) > 1e-3
    assert last["meta/gradient/advantage_scale"] > 0.0
    assert "meta/value_cost" not in last
    file = folder / "run" / "config.yaml"
    config = load(str(file))
    assert config.meta.matching == "hellinger"
    assert dump(config) == file.read_text()
    assert (config.meta.outer.advantage_scale, config.meta.upper.advantage_scale) == (1.0, 1.5)
    changed = make_settings(
        load(str(file), ["agent.advantage_scale=1.4", "meta.outer.advantage_scale=0.2"])
    )
    assert changed.learned["advantage_scale"] == Learned(1.4, 1.5)
    assert changed.outer["advantage_scale"] == 0.2
    for override, part in (
        ("agent.advantage_scal=1", "'agent.advantage_scale'"),
        ("agent.advantage_scale=3", "less than or equal to 2"),
        ("meta.learned=[advantage_scal]", "'advantage_scale'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(part)):
            check(load(str(file), [override]))
    del hyperparameters.HYPERPARAMETERS["advantage_scale"]  # as in a report
    run = read_run(folder / "run")
    assert learned_in([run]) == ["discount", "advantage_scale"]
    strange = {"meta.learned": ["../x", 3, ["y"], "loss", *map("n{}".format, range(99))]}
    names = ("../x", "3", *map("n{}".format, range(99)))
    logged = {f"meta/{name}": np.full((1, 1), 0.5) for name in names}
    strange_run = run._replace(config=strange, curves=logged)
    assert learned_in([strange_run]) == [f"n{i}" for i in range(12)]


def test_their_meta_gradient_is_right(x64, folder, monkeypatch):
    """Against finite differences: targets, a loss and a matching function from outside."""
    plugins.import_all(["my_hyperparameter", "my_loss", "my_matching"], "here")
    theirs = objectives.OBJECTIVES
    both = objectives.Objective(theirs["scaled"].make_targets, theirs["charbonnier"].loss)
    monkeypatch.setitem(theirs, "both", both)
    monkeypatch.setitem(small.HYPER, "advantage_scale", 1.0)
    monkeypatch.setitem(small.OUTER, "advantage_scale", 1.0)
    learned = {"advantage_scale": Learned(0.5, 2.0), "value_cost": Learned(0.4, 1.0)}
    problem = small.MetaProblem(matching="hellinger", learned=learned, objective="both")
    test_meta_gradient.check_against_finite_differences(problem, 1, 1)


@pytest.mark.ci
def test_actors_trials_and_evaluations_import_them(folder):
    """In a trial of a sweep, whose actors are in a Ray of its own."""
    names = ["my_corridor", "my_network", "my_loss", "my_hyperparameter"]
    (folder / "sweep.yaml").write_text(f"""
base: catch/impala
set:
  plugins: [{", ".join(names)}]
  env: {{suite: corridor, game: corridor}}
  agent: {{network: narrow, objective: charbonnier}}
  actors: {{count: 1, envs_per_actor: 32}}
  total_frames: 1300
  evaluation.every_frames: 1280
  logging.tensorboard: false
grid: {{agent.advantage_scale: [0.5]}}
""")
    result = subprocess.run(
        [Path(sys.executable).with_name("bmg"), "sweep", "sweep.yaml", "--results", "results"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    (run,) = (path for path in (folder / "results").iterdir() if path.is_dir())
    assert read_summary(run)["actors/alive"] == 1
    (evaluation,) = run.glob("evaluation-at-*.json")
    assert set(json.loads(evaluation.read_text())["lengths"]) <= set(range(7, 21))
    _look_at_the_run_from_elsewhere(run)


def _look_at_the_run_from_elsewhere(run):
    """A report needs no plugin; an evaluation says what it lacks, and what it imports."""
    elsewhere = run.parent / "elsewhere"
    elsewhere.mkdir()
    result = bmg("evaluate", run, cwd=elsewhere)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("bmg: plugins=my_corridor: no such module is installed, or lies in")
    report = subprocess.run(
        [sys.executable, "-c", _REPORT, str(run)],
        capture_output=True, text=True, cwd=run.parents[1], timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert report.returncode == 0, report.stderr
    assert "imported" not in report.stdout


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "no such module is installed, or lies in"),
        ("import nowhere", "No module named 'nowhere' ("),
        ("1 / 0", "ZeroDivisionError: division by zero ("),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("NETWORKS['deep'] = NETWORKS['dense']", "it changes NETWORKS['deep']"),
        ("del MATCHING['l2']", "it changes MATCHING['l2']"),
        ("networks.NETWORKS = {}", "it replaces NETWORKS; add to it"),
        ("ALGORITHMS['mine'] = 3", "ALGORITHMS['mine'] is no function"),
        ("OBJECTIVES['mine'] = print", "is no agents.objectives.Objective"),
        ("SUITES['my suite'] = print", "SUITES['my suite']: a name has"),
        ("SUITES['mine'] = Suite()", "SUITES['mine']: a suite has make, on_device or both"),
        ("HYPERPARAMETERS['network'] = H('x', 1, 1, 1)", "has a key of that name already"),
        ("HYPERPARAMETERS['kl_cost'] = H('x', 1, 1, 1)", "has a key of that name already"),
        ("HYPERPARAMETERS['loss'] = H('x', 1, 1, 1)", "meta/loss is another metric"),
        ("HYPERPARAMETERS['mine'] = H('x', 3.0, 1.0, 2.0)", "less than or equal to 2"),
        ("HYPERPARAMETERS['mine'] = 1.0", "is no agents.hyperparameters.Hyperparameter"),
    ],
)
def test_bad_plugins_are_one_line(folder, text, part):
    if text is not None:
        (folder / "bad.py").write_text(f"{_IMPORTS}{text}\n")
    replaced = networks.NETWORKS
    try:
        with pytest.raises(ConfigError) as caught:
            load("catch/impala", ["plugins=[bad]"], plugins.import_all)
    finally:
        networks.NETWORKS = replaced
    assert str(caught.value).startswith("plugins=bad: ")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


_IMPORTS = """
from actors.environments.suites import SUITES, Suite
from agents import networks
from agents.algorithm import ALGORITHMS
from agents.hyperparameters import HYPERPARAMETERS, Hyperparameter as H
from agents.matching import MATCHING
from agents.networks import NETWORKS, with_torso
from agents.objectives import OBJECTIVES, Objective
from agents.actor_critic import loss, make_targets
"""


@pytest.mark.parametrize(
    ("text", "overrides", "parts"),
    [
        (
            "NETWORKS['mine'] = with_torso(lambda x: x @ x)",
            ["agent.network=mine"],
            ["the learner cannot be built", "bad.py:10"],
        ),
        (
            "OBJECTIVES['mine'] = Objective(make_targets, lambda o, t, y, h: (h['nothing'], {}))",
            ["agent.objective=mine"],
            ["KeyError: 'nothing'", "bad.py:10"],
        ),
        (
            "OBJECTIVES['mine'] = Objective(make_targets, lambda *x: (loss(*x)[0], {}))",
            ["agent.objective=mine"],
            ["agent.objective=mine", "lack loss/total"],
        ),
        (
            "ALGORITHMS['mine'] = lambda *x: ALGORITHMS['impala'](*x)._replace(online=2)",
            ["agent.algorithm=mine"],
            ["agent.algorithm=mine", "online=2"],
        ),
    ],
)
def test_functions_that_do_not_fit_are_told_before_anything_is_created(
    folder, text, overrides, parts
):
    (folder / "bad.py").write_text(f"{_IMPORTS}{text}\n")
    run = [*overrides, "plugins=[bad]", "actors.runtime=in_process", *_SHORT]
    for dry_run in (True, False):
        with pytest.raises(ConfigError) as caught:
            train("catch/impala", run, str(folder / "run"), False, dry_run)
        for part in parts:
            assert part in str(caught.value)
        assert not (folder / "run").exists()


_TOO_LONG = ("one_hot(state.place, 8)", "one_hot(state.place, 9)", "its observe gives float32[9]")
_NO_TRACE = ("place == 7", "int(place) == 7", "its step raised ConcretizationTypeError")
_ANOTHER = (
    "return Line(place, there)",
    "return (place, there)",
    "that is a tuple, and its reset a",
)


@pytest.mark.parametrize(
    ("runtime", "old", "new", "part"),
    [
        *(("on_device", *mistake) for mistake in (_TOO_LONG, _NO_TRACE, _ANOTHER)),
        *(("in_process", *mistake) for mistake in (_TOO_LONG, _NO_TRACE)),
    ],
)
def test_environments_that_do_not_fit_are_told_before_anything_is_created(
    folder, runtime, old, new, part
):
    right = FILES["my_line"]
    assert old in right
    (folder / "bad.py").write_text(right.replace(old, new).replace('"line"', '"bad"'))
    words = [
        "plugins=[bad]",
        "env.suite=bad",
        "env.game=line",
        f"actors.runtime={runtime}",
        *_SHORT,
    ]
    for dry_run in (True, False):
        with pytest.raises(ConfigError) as caught:
            train("catch/impala", words, str(folder / "run"), False, dry_run)
        assert part in str(caught.value)
        assert not (folder / "run").exists()


def test_from_the_command_line(folder):
    """What is computed too early, and a name that there is not, with a plugin that adds some."""
    (folder / "early.py").write_text("import jax.numpy\nONE = jax.numpy.ones(1)\n")
    for words, part in (
        (["plugins=[early]"], "bmg: plugins=early: it computes with JAX while it is imported"),
        (
            ["plugins=[my_network]", "agent.network=narow"],
            "four_blocks, narrow; did you mean 'narrow'?",
        ),
    ):
        result = bmg("train", "catch/impala", *words, "--run-dir", folder / "run", cwd=folder)
        assert result.returncode == 2
        (line,) = result.stderr.splitlines()
        assert part in line
        assert not (folder / "run").exists()


def test_an_environment_on_the_device_plays_many_seeds(folder):
    run = folder / "run"
    words = [*COMMANDS["my_line"], *_SHORT, "total_frames=2000", "--run-dir", run]
    result = bmg(*words, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert read_metrics(run)[-1]["seeds"] == 4


def test_who_reads_a_configuration_runs_nothing(folder):
    """A run that is resumed or whose schedule is replayed names plugins: they are not imported."""
    (folder / "strange.py").write_text("raise SystemExit('I am run')")
    (folder / "config.yaml").write_text("{base: catch/impala, plugins: [strange]}")
    with pytest.raises(ConfigError, match=r"plugins=strange: \S*config.yaml needs that module"):
        load(str(folder / "config.yaml"))


def test_a_suite_that_there_is_not_is_no_gymnasium():
    spec = environment_spec(load("catch/impala").env)._replace(suite="two_colors")
    with pytest.raises(EnvironmentRefused, match=r"two_colors: there are atari, catch"):
        suites.make_environment(spec, 1, 1)


def test_names_are_known_without_jax():
    """Of what is built in; a typing error costs no import of it."""
    code = (
        "import sys\n"
        "from configs.load import load\n"
        "from scripts import plugins, train\n"
        "from scripts.sweep import sweep\n"
        "try:\n"
        "    load('catch/bmg', ['meta.matching=kll'], plugins.import_all)\n"
        "except Exception as error:\n"
        "    print(error, 'jax' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
                            check=True)  # fmt: skip
    assert result.stdout.strip().endswith("did you mean 'kl'? False")
