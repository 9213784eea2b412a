"""Configuration files, overrides, and one readable line for each fault."""

import os

import pytest
import yaml

from configs.load import ConfigError, ConfigErrors, dump, frames_of, load, named_configs
from configs.schema import Config


@pytest.mark.parametrize("name", named_configs())
def test_named_configurations_load_and_repeat(name, tmp_path):
    config = load(name)
    file = tmp_path / "config.yaml"
    file.write_text(dump(config))
    assert load(str(file)) == config
    assert config.name == name.replace("/", "-")


def test_overrides_win_and_numbers_may_be_written_in_any_way():
    config = load("atari/quickstart", ["learner.learning_rate=1e-4", "env.game=breakout", "seed=3"])
    assert config.learner.learning_rate == 1e-4
    assert config.env.game == "breakout"
    assert config.seed == 3
    assert load("atari/quickstart", ["seed=1", "seed=2"]).seed == 2
    assert load("atari/quickstart", ["total_frames=2e8"]).total_frames == 200_000_000
    assert load("atari/quickstart", ["name=2024-13-45"]).name == "2024-13-45"
    assert load("atari/quickstart", ["name=2024-01-05"]).name == "2024-01-05"
    assert load("atari/quickstart", ["seed=010"]).seed == 10
    assert load("atari/quickstart", ["actors.ray_address="]).actors.ray_address is None
    for text, number in (("1M", 10**6), ("10k", 10**4), ("2.5M", 2_500_000), ("1B", 10**9)):
        assert load("atari/quickstart", [f"total_frames={text}"]).total_frames == number
        assert frames_of("--frames", text) == number
    assert load("two_colours/bmg", ["meta.hidden=[1k, 2]"]).meta.hidden == [1000, 2]
    assert load("atari/quickstart", ["checkpoint.every_seconds=1.5k"]).checkpoint.every_seconds == (
        1_500.0
    )


@pytest.mark.parametrize("text", ["123", "007", "1e5", "1M", "0x10", "1.50"])
def test_numbers_may_be_names(text, tmp_path):
    """As they were typed."""
    assert load("atari/quickstart", [f"name={text}"]).name == text
    assert load("atari/quickstart", [f"hyperparameters_from={text}"]).hyperparameters_from == text
    file = tmp_path / "c.yaml"
    file.write_text("name: 123\n")
    assert load(str(file)).name == "123"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("env.gmae=pong", ["env.gmae", "'env.game'"]),
        ("envs.game=pong", ["envs", "'env'"]),
        ("batch_size=3", ["batch_size", "'learner.batch_size'"]),
        ("agent.algorithm=impla", ["agent.algorithm=impla", "impala"]),
        ("learner.optimizer=rmsprob", ["sgd, rmsprop, adam", "'rmsprop'"]),
        ("actors.count=-1", ["actors.count=-1", "greater than or equal to 1"]),
        ("actors.count=two", ["actors.count=two", "integer"]),
        ("learner.learning_rate=fast", ["learner.learning_rate=fast", "number"]),
        ("total_frames=0", ["total_frames=0"]),
        ("total_frames=0.5k1", ["total_frames=0.5k1", "integer"]),
        ("total_frames=1m", ["total_frames=1m", "integer"]),
        ("total_frames=0.0001k", ["total_frames=0.1", "integer"]),
        ("total_frames=1.5", ["total_frames=1.5", "integer"]),
        ("seed.x=1", ["seed"]),
        ("env.game.x=1", ["env.game is a value, not a group"]),
        ("noequals", ["'noequals'", "KEY=VALUE"]),
        ("env=3", ["env=3"]),
        ("name=a b", ["name=a b"]),
        ("actors.count=true", ["actors.count=True", "number"]),
        ("meta.upper.discount=true", ["meta.upper.discount=True", "number"]),
        ("evaluation.max_episode_frames=true", ["max_episode_frames=True", "number"]),
        ("meta.hidden=[8, true]", ["meta.hidden=[8, True]", "number"]),
        ("total_frames=1:00:00", ["total_frames=1:00:00", "integer"]),
        ("meta={learned: [discount], learned: []}", ["meta: line 1", "'learned' stands twice"]),
        ("env.frame_stack=1e9", ["env.frame_stack=1000000000", "1000"]),
        ("a." * 5_000 + "b=1", ["unknown key a.a."]),
        ("\udcff=1", ["a key is not text"]),
        ("name=\udcff", ["name="]),
        ("learner.learning_rate=.inf", ["learner.learning_rate=inf", "finite"]),
        ("actors.count=99999999999999999999", ["actors.count"]),
        ("plugins=[my plugin]", ["plugins.0=my plugin", "must be the name of a module"]),
        ("plugins=mine", ["plugins=mine", "list"]),
        ("plugins=[mine]", ["plugins=mine: atari/quickstart needs that module"]),
        ("env.suite=gym", ["env.suite=gym", "two_colours; did you mean 'gymnasium'?"]),
        ("agent.network=deap", ["agent.network=deap", "'deep'"]),
    ],
)
def test_bad_overrides_are_one_line_that_names_the_key(override, parts):
    with pytest.raises(ConfigError) as caught:
        load("atari/quickstart", [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"env: [unclosed", "line 1"),
        (b"- a\n- b", "keys and values"),
        (b"\xff\xfe\x00", "not text"),
        (b"\tx: 1", "not valid YAML"),
        (b"env:\n  gme: pong\n", "'env.game'"),
        (b"learner: {batch_size: 64}\nlearner: {devices: 0}", "line 2, column 1: 'learner' stands"),
        (b"env:\n  game: pong\n  game: qbert", "line 3, column 3: 'game' stands twice"),
        (b"meta.learned: [discount]", "in a file, learned stands below meta:"),
        (b"", "is empty"),
        (b"# base: atari/bmg\n", "is empty"),
        (b'base: "a\\0.yaml"', "it is not text"),
        (b'"\\ud800": 1', "line 1, column 1"),
    ],
)
def test_bad_files_are_one_line(tmp_path, content, part):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_fault_is_told():
    with pytest.raises(ConfigErrors) as caught:
        load("catch/impala", ["seed=x", "learner.bach_size=3", "name=a b\nc"])
    told = caught.value.faults
    assert [fault.split(":")[0].split(";")[0] for fault in told] == [
        *("name=a b c", "seed=x", "unknown key learner.bach_size")
    ]


def test_a_group_on_the_command_line_is_laid_over_the_file_s():
    """As a file over its base; it is not taken for the whole group."""
    config = load("atari/bmg", ["meta={inner_steps: 2, outer: {discount: 0.9}}"])
    assert (config.meta.inner_steps, config.meta.outer.discount) == (2, 0.9)
    assert config.meta.bootstrap_steps == load("atari/bmg").meta.bootstrap_steps == 4


def test_what_an_alias_stands_for_is_changed_alone(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("base: catch/bmg\nmeta: {outer: &o {discount: 0.9}, upper: *o}\n")
    meta = load(str(file), ["meta.outer.discount=0.8"]).meta
    assert (meta.outer.discount, meta.upper.discount) == (0.8, 0.9)


def test_a_pipe_that_nobody_writes_to_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="it is no file"):
        load(str(tmp_path / "pipe.yaml"))


def test_paths_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("base: catch/impala\nhyperparameters_from: ~/run\n")
    assert load("~/own.yaml").hyperparameters_from == str(tmp_path / "run")


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ConfigError, match="'atari/quickstart'"):
        load("atari/quikstart")
    with pytest.raises(ConfigError, match="No such file"):
        load("missing.yaml")
    with pytest.raises(ConfigError, match="no configuration named"):
        load("x" * 300)


def test_every_key_has_a_default_and_is_documented():
    assert Config() == Config.model_validate(yaml.safe_load(dump(Config())))
    for name, group in Config.model_fields.items():
        for key, field in getattr(group.annotation, "model_fields", {name: group}).items():
            assert field.description, key


def test_a_base_is_read_first_and_groups_are_merged(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: atari/bmg\nmeta:\n  bootstrap_steps: 2\n  outer: {discount: 0.9}\n")
    config, base = load(str(file), ["meta.outer.entropy_cost=0.02"]), load("atari/bmg")
    assert config.meta.bootstrap_steps == 2
    assert config.meta.outer.discount == 0.9
    assert config.meta.outer.entropy_cost == 0.02
    assert config.meta.outer.value_cost == base.meta.outer.value_cost
    assert config.replay == base.replay
    for content in ("base: nowhere", "base: [1]", f"base: {file}"):
        file.write_text(content)
        with pytest.raises(ConfigError, match=r"nowhere|base="):
            load(str(file))


def test_stacx_is_settled_to_what_it_means():
    meta = load("catch/stacx").meta
    assert (meta.bootstrap_steps, meta.matching, meta.target_optimizer) == (1, "l2", "sgd")
    with pytest.raises(ConfigError, match=r"agent.algorithm=stacx means meta.bootstrap_steps=1"):
        load("catch/bmg", ["agent.algorithm=stacx", "meta.bootstrap_steps=2"])
    meta = load("atari/bmg", ["agent.algorithm=stacx"]).meta  # a file for BMG is no contradiction
    assert (meta.bootstrap_steps, meta.matching, meta.target_optimizer) == (1, "l2", "sgd")


def test_stacx_means_its_divergence_too():
    """Zahavy et al.: weight 1, whatever configuration it starts from; who sets it gets it."""
    assert load("catch/impala", ["agent.algorithm=stacx"]).meta.outer.kl_cost == 1.0
    assert load("atari/stacx").meta.outer.kl_cost == 1.0
    assert load("catch/stacx", ["meta.outer.kl_cost=0"]).meta.outer.kl_cost == 0.0
    assert load("catch/bmg").meta.outer.kl_cost == 0.0


def test_only_atari_clips_rewards_unasked():
    landing = ["env.suite=gymnasium", "env.game=LunarLander-v3"]
    assert load("catch/impala", landing).env.reward_clip == 0.0
    assert load("catch/impala", [*landing, "env.reward_clip=2"]).env.reward_clip == 2.0
    assert load("atari/bmg").env.reward_clip == 1.0
    assert load("atari/bmg", ["env.reward_clip=0"]).env.reward_clip == 0.0


def test_one_leak_is_learned():
    assert [n for n in load("atari/bmg").meta.learned if "leak" in n] == ["vtrace_leak"]


@pytest.mark.parametrize("value", ["\udcff", "a\ud800b", "[\udce6]"])
def test_values_that_no_file_could_hold_are_refused(value):
    """Bytes of a command line that are no UTF-8; a run's own configuration could not be read."""
    for key in ("learner.coordinator", "env.game", "hyperparameters_from", "meta.learned"):
        with pytest.raises(ConfigError, match=f"^{key}=.*is no UTF-8 text"):
            load("catch/impala", [f"{key}={value}"])
