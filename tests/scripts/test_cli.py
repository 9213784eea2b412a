"""Refusals of the command line, in this process: short lines, whatever a user has typed."""

import os
import subprocess
import sys

import pytest

from configs.load import ConfigError, load, named_configs, purpose
from scripts import cli, command_line
from scripts.check import keys_without_effect
from scripts.configs import configs
from scripts.train import train
from tests.system.command import PATIENCE, ROOT

_ESCAPES = "\x1b[31mred\x1b[0m"


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs `bmg` in an empty home and current folder, where nothing may be created."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bmg", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.command()
        out, errors = capsys.readouterr()
        assert (end.value.code, out) == (2, ""), errors
        assert list(tmp_path.iterdir()) == []
        lines = errors.splitlines()
        assert all(line.startswith("bmg: ") and len(line) <= 300 for line in lines)
        return lines

    return run


@pytest.mark.parametrize(
    "option",
    ["--run-dir=", "--run-dir=~nobody-of-that-name/x", "--resume=~nobody-of-that-name/x"],
)
def test_paths_that_name_nothing(refused, option):
    (line,) = refused("train", "catch/impala", option)
    assert "must not be empty" in line or "no such user" in line


def test_every_option_that_is_a_path_knows_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    parse = command_line._parser().parse_args
    home = f"{tmp_path}/x.mp4"
    assert parse(["train", "a", "--run-dir=~/x.mp4"]).run_dir == home
    assert parse(["sweep", "a", "--results=~/x.mp4"]).results == home
    assert parse(["report", "~/x.mp4", "--out=~/x.mp4"]).out == home
    assert parse(["report", "~/x.mp4", "--published=~/x.mp4"]).published == home
    assert parse(["report", "~/x.mp4"]).run_dirs == [home]
    assert parse(["evaluate", "~/x.mp4", "--video=~/x.mp4"]).video == home
    assert parse(["evaluate", "~/x.mp4"]).run_dir == home


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "catch/impala", f"name={_ESCAPES}"),
        ("train", "catch/impala", f"{_ESCAPES}=1"),
        ("train", _ESCAPES),
        (_ESCAPES,),
        ("evaluate", f"{_ESCAPES}\u202e"),
        ("train", "catch/impala", f"--{_ESCAPES}"),
        ("train", "catch/impala", f"actors.ray_address={_ESCAPES}"),
    ],
)
def test_a_terminal_obeys_no_value(refused, arguments):
    (line,) = refused(*arguments)
    assert line.isprintable()
    assert r"\x1b[31mred" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "catch/impala", f"name={'x y' * 40_000}"),
        ("train", "x" * 100_000),
        ("x" * 100_000,),
        ("train", "catch/impala", f"env.game={'[' * 3_000}"),
        ("train", "catch/impala", f"hyperparameters_from={'x' * 100_000}"),
        ("train", "catch/impala", f"--run-dir={'x' * 100_000}"),
        ("evaluate", "x" * 100_000),
        ("report", "x" * 100_000),
        ("sweep", f"{'x' * 100_000}.yaml"),
    ],
)
def test_long_values_are_cut_in_the_middle(refused, arguments):
    assert len(refused(*arguments)) == 1


def test_all_faults_are_told_a_line_each(refused):
    lines = refused("train", "catch/impala", "seed=x", "learner.bach_size=3", "agent.discount=2")
    assert [line.split()[1] for line in lines] == ["seed=x:", "agent.discount=2:", "unknown"]
    lines = refused(
        *("train", "catch/bmg", "meta.learned=[discont]", "seeds=3", "learner.process=4")
    )
    assert [line.split("=")[0] for line in lines] == [
        *("bmg: meta.learned", "bmg: learner.process", "bmg: seeds")
    ]


def test_keys_that_act_nowhere():
    """Only those that were typed: a file's own groups are no fault."""

    def told(*overrides):
        return list(keys_without_effect(load("catch/bmg", overrides), overrides))

    typed = ("meta.bootstrap_steps=3", "meta.outer.discount=0.9", "meta.bootstrap_steps=2")
    assert told("agent.algorithm=impala", *typed) == ["meta.bootstrap_steps", "meta.outer.discount"]
    assert told("agent.algorithm=impala", "meta={inner_steps: 2}") == ["meta"]
    assert told("agent.algorithm=impala", "learner.epsilon=0.1") == []
    assert told(*typed) == []
    # A value head is learned under the outer hyper-parameters by any algorithm.
    head = ("agent.algorithm=impala", "agent.outer_value_head=true")
    assert told(*head, *typed) == ["meta.bootstrap_steps"]
    on_device = ("actors.runtime=on_device", "actors.count=8", "actors.ray_address=auto")
    assert told(*on_device) == ["actors.count", "actors.ray_address"]
    assert told(*on_device[1:]) == []


@pytest.mark.parametrize(
    ("words", "config", "overrides", "run_dir", "resume"),
    [
        ("c", "c", [], None, False),
        ("c --run-dir r", "c", [], "r", False),
        ("c seed=1 --run-dir r --resume seed=2", "c", ["seed=2", "seed=1"], "r", True),
        ("c --run-dir r --resume", "c", [], "r", True),
        ("--resume c --run-dir r", "c", [], "r", True),
        ("--resume r", None, [], "r", True),
        ("--resume r seed=1", None, ["seed=1"], "r", True),
        ("seed=1 --resume r", None, ["seed=1"], "r", True),
        ("--run-dir r --resume", None, [], "r", True),
        ("--run-dir r --resume seed=1 name=x", None, ["seed=1", "name=x"], "r", True),
    ],
)
def test_what_stands_behind_resume(monkeypatch, words, config, overrides, run_dir, resume):
    monkeypatch.setattr(sys, "argv", ["bmg", "train", *words.split()])
    options = command_line.parse()
    assert options.config == config
    assert sorted(options.overrides) == sorted(overrides)
    assert (options.run_dir, options.resume) == (run_dir, resume)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("", "CONFIG is missing"),
        ("--resume", "CONFIG is missing"),
        ("seed=1", "CONFIG is missing"),
        ("c --resume r --run-dir r", "leave out CONFIG"),
        ("c --resume r", "leave out CONFIG"),
    ],
)
def test_what_is_not_enough_to_train(monkeypatch, capsys, words, part):
    monkeypatch.setattr(sys, "argv", ["bmg", "train", *words.split()])
    with pytest.raises(SystemExit, match="2"):
        command_line.parse()
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line


@pytest.mark.parametrize("name", ["catch/stacx", "two_colours/bmg", "atari/bmg"])
def test_a_printed_configuration_is_that_configuration(tmp_path, capsys, name):
    """With the source of each value beside it."""
    assert configs(name, ["seed=3"]) == 0
    text = capsys.readouterr().out
    file = tmp_path / f"{name.replace('/', '-')}.yaml"
    file.write_text(text)
    assert load(str(file)) == load(name, ["seed=3"])
    assert "seed: 3  # command line" in text
    if name == "catch/stacx":
        assert "  suite: catch  # catch/impala\n" in text
        assert "  algorithm: stacx  # catch/stacx\n" in text
        assert "  matching: l2  # agent.algorithm=stacx\n" in text
        assert "  noop_max: 30  # default\n" in text


def test_each_configuration_says_what_it_is_for(capsys):
    assert configs(None, []) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()  # of a pipe: a line each
    assert [line.split()[0] for line in lines] == named_configs()
    for name, line in zip(named_configs(), lines, strict=True):
        assert len(purpose(name)) > 20, name
        assert line.endswith(purpose(name))


def test_a_dry_run_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train("two_colours/bmg", ["seeds=5"], None, False, dry_run=True) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-3].startswith("# would train 5 seeds x 10,000,000 frames in ")
    assert shown[-1] == "# into runs/two_colours-bmg-DATE-TIME"
    with pytest.raises(ConfigError, match=r"learner.batch_size=7"):
        train("catch/impala", ["learner.batch_size=7"], "r", False, dry_run=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("trian catch/impala", "'trian': did you mean 'train'? there are train, "),
        ("report x --mixx y", "--mixx; did you mean '--mix'?"),
        ("evaluate x --policy gredy", "'gredy': did you mean 'greedy'? there are sample"),
        ("bench --seconds abc", "--seconds: abc must be a whole number, at least 1"),
        ("bench --seconds 0", "--seconds: 0 must be a whole number, at least 1"),
        ("evaluate x --seed -1", "--seed: -1 must be a whole number in [0, 2**31)"),
        ("train catch/impala logging.sink=nonsense", "must be module:function"),
        ("train catch/impala logging.sink=no_such:f", "no such module is installed"),
        ("train catch/impala logging.sink=json:send", "json has no function send"),
        ("train catch/impala --run-dri x", "did you mean '--run-dir'?"),
        (
            "train atari/bmg env.game=ALE/Pong-v5",
            "write env.game=pong, and env.sticky_actions=0.25",
        ),
        ("train atari/bmg env.game=PongNoFrameskip-v4", "write env.game=pong"),
        ("train catch/impala env.game=ALE/Pong-v5", "write env.suite=atari env.game=pong, and"),
        ("train ALE/MsPacman-v5", "write `bmg train atari/quickstart env.game=ms_pacman`"),
        ("train PongNoFrameskip-v4", "write `bmg train atari/quickstart env.game=pong`"),
        ("train CartPole-v1", "env.suite=gymnasium env.game=CartPole-v1`"),
        ("train atari/bmg env.game=SpaceInvaders-v4", "write env.game=space_invaders"),
        (
            "train catch/impala env.suite=gymnasium env.game=ALE/Pong-v5",
            "write env.suite=atari env.game=pong",
        ),
    ],
)
def test_what_was_meant(refused, words, part):
    (line,) = refused(*words.split())
    assert part in line


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("bmg sta", ["status "]),
        ("bmg train catch/b", ["catch/bmg "]),
        ("bmg train catch/bmg learner.learning_rate_", ["learner.learning_rate_schedule="]),
        ("bmg train catch/bmg agent.algorithm=q_lambda_", ["agent.algorithm=q_lambda_bmg "]),
        ("bmg train catch/bmg env.game=mon", ["env.game=montezuma_revenge "]),
        ("bmg train catch/bmg logging.tensorboard=t", ["logging.tensorboard=true "]),
        ("bmg sweep sweeps/smo", ["sweeps/smoke "]),
        ("bmg evaluate x --pol", ["--policy "]),
        ("bmg evaluate x --policy gr", ["greedy "]),
    ],
)
def test_what_a_shell_completes(typed, offered):
    """As argcomplete's function in a shell asks: the answer comes on descriptor 8."""
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": typed, "COMP_POINT": str(len(typed))}
    shell = f'exec 8>&1 >/dev/null 9>/dev/null; exec "{sys.executable}" -m scripts.cli'
    answered = subprocess.run(
        ["bash", "-c", shell],
        env={**os.environ, **asked, "_ARGCOMPLETE_IFS": "\n"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert answered.stdout.split("\n") == offered


_HEAVY = ("jax", "ray", "numpy", "gymnasium", "ale_py", "optax", "scipy", "matplotlib")
_LOADED = """
import sys
sys.argv = ["bmg", *sys.argv[1:]]
from scripts.cli import command
try:
    command()
except SystemExit:
    print("loaded:", *sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "also"),
    [
        ("--help", ("pydantic", "rich")),
        ("games", ("pydantic",)),
        ("configs", ()),
        ("train atari/bmg env.gmae=pong", ("rich",)),
        ("train atari/bmg env.game=pongg", ("rich",)),
        ("train atari/bmg env.suite=gymnasium learner.batch_size=7", ("rich",)),
        ("sweep nonsense", ("rich",)),
        ("status nonsense", ()),
        ("report nonsense", ("rich",)),
    ],
)
def test_answers_at_once_import_little(words, also):
    """Each heavy package takes a tenth of a second or more; they are imported where work begins."""
    command = [sys.executable, "-c", _LOADED, *words.split()]
    said = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    *_, loaded = said.stderr.splitlines()
    modules = loaded.split()
    assert modules[0] == "loaded:"
    assert [name for name in (*_HEAVY, *also) if name in modules] == []
