"""Generated configurations, files and words: each is valid, or refused in short lines, at once."""

import importlib.resources
import os
import random
import sys
import time

import pytest

from actors.environments.atari_games import BY_NAME
from configs.load import ConfigError, ConfigErrors, dump, flat, load, named_configs
from configs.schema import Config
from configs.sweep import load_sweep, named_sweeps
from scripts import cli, command_line
from scripts.check import check
from scripts.sweep.plan import configurations

_KEYS = list(flat(Config().model_dump(mode="json")))
_GROUPS = sorted({key.rpartition(".")[0] for key in _KEYS} - {""})
_SECONDS = 20.0  # for one case, on a machine that is busy with others

_VALUES = (
    *(
        "",
        "~",
        "null",
        "true",
        "false",
        "yes",
        "off",
        "0",
        "1",
        "-1",
        "2",
        "8",
        "010",
        "1_0",
        "0.5",
    ),
    *("1e-4", "2e8", "1e300", "-1e300", "1e999", ".inf", "-.inf", ".nan", "nan", "inf", "0x10"),
    *("1:00:00", "2024-01-01", "2024-13-45", "9" * 30, "9" * 5_000, "1e9", "1e18", str(2**31)),
    *("pong", "pongg", "catch", "kl", "kll", "deep", "separate", "bmg", "impala", "q_lambda"),
    *("localhost:1", "nonsense", "[::1]:99999999999", "\u00b2:\u00b2", "a" * 300 + ":1"),
    *("[]", "[[]]", "[1]", "[true]", "[discount]", "[discount, nonsense]", "[a, b", "{}", "{a: 1}"),
    *("{a: 1, a: 2}", "[" * 3_000, "{a: " * 3_000, "&a [*a]", "*a", "!!python/name:os.system x"),
    *(
        "!!bool maybe",
        "!!int x",
        "!!binary aGk=",
        "? [1]\n: 2",
        "- a\n- b",
        "a: b: c",
        "@",
        "`",
        "%",
    ),
    *("\x1b[31mred\x1b[0m", "\x07", "\r\n\r\n", "two\nlines\nand more", "\u202eabc", "\ud800"),
    *('"\\ud800"', '"\\0"', '"a\\nb"', "\u65e5\u672c", "\U0001f600", "x" * 9_000, "y " * 5_000),
    *(
        "../..",
        "/",
        "/dev/null",
        "~nobody-of-that-name",
        "a/" * 3_000,
        "'",
        '"',
        "=",
        "a=b",
        "#",
        "-",
    ),
)


def _word(rng):
    """A harmless value; or one from the list, or a mutation of it."""
    if rng.random() < 0.3:
        return rng.choice(["1", "2", "8", "0.5", "1e-4", "true", "null", "catch", "pong"])
    value = rng.choice(_VALUES)
    if rng.random() < 0.3:
        value += rng.choice(_VALUES)[:50]
    if rng.random() < 0.2:
        at = rng.randrange(len(value) + 1)
        value = value[:at] + chr(rng.choice([*range(0x80), 0x85, 0xA0, 0x2028])) + value[at:]
    return value


def _key(rng):
    key = rng.choice(_KEYS)
    if rng.random() < 0.15:
        key = rng.choice([*_GROUPS, key[:-1], key + ".x", key.upper(), "", ".", "a." * 2_000 + "b"])
    if rng.random() < 0.05:
        key = _word(rng).replace("=", "")
    return key


def _overrides(rng):
    words = [f"{_key(rng)}={_word(rng)}" for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    return [*words, _word(rng)] if rng.random() < 0.05 else words


def _shipped(names):
    root = importlib.resources.files("configs")
    return [root.joinpath(f"{name}.yaml").read_text() for name in names]


def _mutated(rng, text):
    """A shipped file in which lines are lost, doubled, moved in, or their values changed."""
    lines = text.splitlines()
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(lines))
        key, colon, _ = lines[at].partition(":")
        lines[at : at + 1] = rng.choice(
            [
                [],
                [],
                [f"{key}{colon} {_word(rng)}"],
                [lines[at]] * 2,
                ["  " + lines[at]],
                [f"{key}{colon} {_word(rng)}"],
                [f"{_word(rng)}: {_word(rng)}"],
                [lines[at], f"{rng.choice(_GROUPS)}: {{{_key(rng)}: {_word(rng)}}}"],
            ]
        )
        lines = lines or [""]
    return "\n".join(lines)


def _bomb(rng):
    """Aliases of aliases: lists or groups, 9 to the power of 12 values."""
    opening, closing = rng.choice([("[", "]"), ("{<<: [", "]}")])
    first = "a0: &a0 [x]" if opening == "[" else "a0: &a0 {x: 1}"
    rows = [f"a{i}: &a{i} {opening}{','.join([f'*a{i - 1}'] * 9)}{closing}" for i in range(1, 13)]
    return "\n".join([first, *rows])


def _file(rng, folder, texts):
    kind = rng.random()
    if kind < 0.85:
        content = _mutated(rng, rng.choice(texts)).encode("utf-8", "surrogatepass")
    elif kind < 0.95:
        content = _word(rng).encode("utf-8", "surrogatepass")
    else:
        content = rng.choice([_bomb(rng).encode(), b"", rng.randbytes(200), b"a: 1\n" * 100_000])
    file = folder / "fuzz.yaml"
    file.write_bytes(content)
    return str(file)


def _checked(call):
    """What a command that only checks would say: nothing, or the lines of its refusal."""
    started = time.monotonic()
    try:
        call()
    except ConfigErrors as error:
        lines = list(error.faults)
    except ConfigError as error:
        lines = [str(error)]
    else:
        lines = []
    assert time.monotonic() - started < _SECONDS
    return lines


def _load_and_check(source, overrides):
    config = load(source, overrides)
    check(config)
    return config


def _refused(arguments, monkeypatch, capsys):
    """Runs a command line that is to be refused, as a process would; returns how many lines."""
    monkeypatch.setattr(sys, "argv", ["bmg", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.command()
    out, errors = capsys.readouterr()
    assert end.value.code == 2, (arguments, out, errors)
    assert out == "", arguments
    lines = errors.removesuffix("\n").split("\n")
    for line in lines:
        assert line.startswith("bmg: "), line
        assert len(line) <= 300, line
        assert line.isprintable(), line
    return len(lines)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current one, outside of which the file that is read stands; it must stay empty."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setenv("HOME", str(empty))
    yield tmp_path
    assert list(empty.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"empty", "fuzz.yaml"}


def test_overrides(folder, monkeypatch, capsys):
    """All keys with all kinds of values, on all configurations."""
    rng, names, valid = random.Random(1), named_configs(), 0
    cases = [(rng.choice(names), [f"{key}={_word(rng)}"]) for key in _KEYS for _ in range(3)]
    cases += [(rng.choice(names), _overrides(rng)) for _ in range(200)]
    for source, overrides in cases:
        faults = _checked(lambda: _load_and_check(source, overrides))  # noqa: B023
        if faults:
            words = [word.replace("\0", "") for word in overrides]  # no argument can hold it
            if words == overrides and not any(word.startswith("-") for word in words):
                lines = _refused(["train", source, *words], monkeypatch, capsys)
                assert lines == len(faults)
            continue
        valid += 1
        config = load(source, overrides)
        (folder / "fuzz.yaml").write_text(dump(config))
        assert load(str(folder / "fuzz.yaml")) == config
    assert 0.02 < valid / len(cases) < 0.7


def test_files(folder, monkeypatch, capsys):
    """Configurations in files that were damaged, or made to do harm."""
    rng, texts, valid = random.Random(2), _shipped(named_configs()), 0
    for _ in range(300):
        file = _file(rng, folder, texts)
        if _checked(lambda: _load_and_check(file, [])):  # noqa: B023
            _refused(["train", file], monkeypatch, capsys)
        else:
            valid += 1
    assert 15 < valid < 285


def test_sweeps(folder, monkeypatch, capsys):
    """The same of sweeps; the trials of small ones are checked as well."""
    rng, texts, valid = random.Random(3), _shipped(named_sweeps()), 0

    def sweep_and_check(file):
        plan = load_sweep(file, (), tuple(BY_NAME))
        configurations(plan._replace(trials=plan.trials[:4]), None)

    for _ in range(200):
        file = _file(rng, folder, texts)
        if _checked(lambda: sweep_and_check(file)):  # noqa: B023
            plan = _checked(lambda: load_sweep(file, (), tuple(BY_NAME)))  # noqa: B023
            if plan:  # else it is one of the trials, of which there may be a thousand
                _refused(["sweep", file, "--dry-run"], monkeypatch, capsys)
        else:
            valid += 1
    assert 5 < valid < 195


def _is_refused(arguments, capsys):
    """Whether nothing would start: the words are no command, or name nothing that is there."""
    try:
        options = command_line._parser().parse_known_args(arguments)[0]
    except SystemExit as end:
        capsys.readouterr()
        return end.code == 2
    if options.command not in ("train", "bench"):
        return options.command not in ("configs", "games")
    if options.command == "train":
        try:
            command_line._settle_resume(command_line._parser(), options)
        except SystemExit:
            capsys.readouterr()
            return True
        if options.config is None:  # a run to go on with, and there is none
            return True
    return bool(_checked(lambda: _load_and_check(options.config, options.overrides)))


def test_words(folder, monkeypatch, capsys):
    """Command lines of any words."""
    rng, commands = random.Random(4), ["train", "evaluate", "report", "sweep", "bench", "nonsense"]
    options = ["--run-dir", "--resume", "--episodes", "--seed", "--video", "--out", "--results"]
    options += ["--policy", "--protocol", "--seconds", "--mix", "--nonsense", "-x", "--dry-run"]
    refused = 0
    for _ in range(200):
        words = [rng.choice([*options, _word(rng), _word(rng)]) for _ in range(rng.randrange(4))]
        words = [rng.choice(commands), *words] if rng.random() < 0.9 else words
        words = [word.replace("\0", "") for word in words]
        # Folders in which real runs may lie: reports would be drawn there.
        words = [word for word in words if not os.path.isdir(word)]
        if _is_refused(words, capsys):
            refused += 1
            _refused(words, monkeypatch, capsys)
    assert refused > 120
