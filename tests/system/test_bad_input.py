"""Bad input: exit 2, one line on stderr that says what to change, and nothing created."""

import socket

import pytest

from tests.system.command import bmg


def _refused(result, folder, *parts):
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("bmg: ")
    assert result.stdout == ""
    for part in parts:
        assert part in lines[0]
    assert not folder.exists()


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["env.game=pongg"], ["env.game=pongg", "'pong'"]),
        (["env.gmae=pong"], ["env.gmae", "'env.game'"]),
        (["learner.learning_rate=fast"], ["learner.learning_rate=fast", "number"]),
        (["actors.count=-2"], ["actors.count=-2", "greater"]),
        (["learner.batch_size=12"], ["learner.batch_size=12", "actors.envs_per_actor=8", "=6"]),
        (["actors.ray_address=localhost:1"], ["localhost:1", "ray start --head"]),
        (["actors.ray_address=nonsense"], ["actors.ray_address=nonsense", "host:port"]),
        (["env.suite=catch", "env.game=catch"], ["env.frame_skip=4"]),
        (["env.suite=gymnasium", "env.game=CartPole-v1", "env.noop_max=0"], ["env.noop_max=0"]),
        (["meta.learned=[discont]"], ["meta.learned=discont", "'discount'"]),
        (["meta.learned=[]"], ["meta.learned=[]", "agent.algorithm=impala"]),
        (["meta.matching=kll"], ["meta.matching=kll", "'kl'"]),
        (["agent.entropy_cost=0.5"], ["agent.entropy_cost=0.5", "meta.upper.entropy_cost"]),
        (["meta.uper.discount=0.9"], ["meta.uper", "'meta.upper'"]),
        (["agent.algorithm=stacx", "meta.matching=kl"], ["meta.matching=kl", "meta.matching=l2"]),
        (["replay.unrolls=8"], ["replay.unrolls=8", "learner.batch_size=8"]),
        (["replay.unrolls=3"], ["learner.batch_size=8", "learner.batch_size=11"]),
        (["hyperparameters_from=nowhere"], ["hyperparameters_from=nowhere", "metrics.jsonl"]),
        (["learner.devices=99", "actors.runtime=in_process"], ["learner.devices=99"]),
        (["learner.schedule_frames=1e6"], ["learner.schedule_frames=1000000", "total_frames="]),
        (
            ["learner.schedule_frames=1e9", "learner.learning_rate_schedule=constant"],
            ["learner.schedule_frames=1000000000", "use linear"],
        ),
    ],
)
def test_configuration(tmp_path, overrides, parts):
    folder = tmp_path / "run"
    _refused(bmg("train", "atari/quickstart", *overrides, "--run-dir", folder), folder, *parts)


@pytest.mark.parametrize(
    ("game", "part"),
    [
        ("NoSuchThing-v0", "NoSuchThing"),
        ("Pendulum-v1", "not Discrete"),
        ("tests.actors.environments_for_tests:Thumbnail-v0", "use agent.network=deep"),
        ("tests.actors.environments_for_tests:ChannelsFirst-v0", "it takes [H, W, C]"),
        ("tests.actors.environments_for_tests:Empty-v0", "shape [0]"),
        ("tests.actors.environments_for_tests:Broken-v0", "there is no cartridge"),
    ],
)
def test_gymnasium_environments_that_cannot_be_played(tmp_path, game, part):
    folder = tmp_path / "run"
    overrides = ["env.suite=gymnasium", f"env.game={game}"]
    _refused(bmg("train", "catch/impala", *overrides, "--run-dir", folder), folder, game, part)


def test_an_address_where_something_else_answers(tmp_path):
    """A web server is no Ray cluster: refused all the same, and soon."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        folder = tmp_path / "run"
        result = bmg("train", "catch/impala", f"actors.ray_address={address}", "--run-dir", folder)
    _refused(result, folder, address, "ray start --head")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_no_cluster_where_ray_remembers_one(tmp_path, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    folder = tmp_path / "runs"
    result = bmg("train", "catch/impala", "actors.ray_address=auto", cwd=tmp_path)
    _refused(result, folder, "actors.ray_address=auto", address, "ray start --head")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "override", "part"),
    [
        ("catch/impala", "learner.unroll_length=1e9", "batches 2,235.2 GiB"),
        ("two_colours/bmg", "meta.hidden=[1000000,1000000]", "GiB of memory"),
    ],
)
def test_what_cannot_fit_into_memory(tmp_path, name, override, part):
    folder = tmp_path / "run"
    result = bmg("train", name, override, "--run-dir", folder)
    _refused(result, folder, override.partition("=")[0], part, "make them smaller")


def test_meta_keys_that_act_nowhere_are_told(tmp_path):
    """It is no fault: the run goes on."""
    overrides = ("agent.algorithm=impala", "meta.bootstrap_steps=3", "actors.runtime=in_process")
    run = ("catch/bmg", *overrides, "total_frames=600", "--run-dir", tmp_path / "run")
    result = bmg("train", *run)
    assert result.returncode == 0
    (warning,) = result.stderr.splitlines()
    assert warning.startswith("bmg: meta.bootstrap_steps acts nowhere")


def test_files_and_folders(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("env: [unclosed")
    folder = tmp_path / "run"
    _refused(bmg("train", bad, "--run-dir", folder), folder, "bad.yaml", "line 1")
    _refused(bmg("train", tmp_path / "no.yaml", "--run-dir", folder), folder, "No such file")
    blocked = bad / "run"  # below a file
    _refused(bmg("train", "catch/impala", "--run-dir", blocked), folder, "--run-dir", "bad.yaml")
    _refused(bmg("train", "catch/impala", "--run-dir", "/proc/run"), folder, "--run-dir")
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious.txt").write_text("mine")
    _refused(bmg("train", "catch/impala", "--run-dir", full), folder, "--resume")
    assert [p.name for p in full.iterdir()] == ["precious.txt"]


def test_resume_and_evaluate_need_a_run(tmp_path):
    folder = tmp_path / "run"
    _refused(bmg("train", "catch/impala", "--resume"), folder, "--run-dir")
    _refused(bmg("train", "catch/impala", "--resume", "--run-dir", folder), folder, "no run")
    _refused(bmg("evaluate", folder), folder, "no run")
    _refused(bmg("report", folder), folder, "no run")


def test_usage():
    for arguments in (
        ["trian"],
        ["train"],
        ["evaluate", "x", "--episodes", "0"],
        ["train", "a", "--x"],
    ):
        result = bmg(*arguments)
        assert result.returncode == 2
        assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["train", "evaluate", "bench", "report", "games"])
def test_help_has_an_example(command):
    result = bmg(command, "--help")
    assert result.returncode == 0
    assert f"example: bmg {command}" in result.stdout


@pytest.mark.parametrize(
    ("name", "overrides", "parts"),
    [
        ("bmg", ["seeds=0"], ["seeds=0", "greater"]),
        ("bmg", ["actors.count=8"], ["actors.count=8", "must be 2", "own program"]),
        ("bmg", ["agent.algorithm=impala"], ["agent.algorithm=impala", "actor_critic"]),
        ("bmg", ["learner.batch_size=4"], ["learner.batch_size=4", "must be 1"]),
        ("bmg", ["meta.learned=[vtrace_lambda]"], ["meta.learned=vtrace_lambda", "entropy_cost"]),
        ("bmg", ["meta.keep_bootstrapped=false"], ["meta.keep_bootstrapped=False", "true"]),
        ("bmg", ["env.game=pong"], ["env.game=pong", "'two_colours'"]),
        ("bmg", ["env.respawn=agent"], ["env.respawn=agent", "object, all"]),
        ("bmg", ["actors.runtime=in_process"], ["actors.runtime=in_process", "has on_device"]),
        ("mg", ["meta.bootstrap_steps=2"], ["meta.bootstrap_steps=2", "agent.algorithm=mg"]),
        ("q_lambda", ["learner.unroll_length=16"], ["learner.unroll_length=16", "must be 1"]),
        ("q_lambda_bmg", ["meta.learned=[discount]"], ["meta.learned=discount", "epsilon"]),
        ("q_lambda_bmg", ["meta.bootstrap_steps=1"], ["meta.bootstrap_steps=1", "at least 2"]),
        ("q_lambda_bmg", ["meta.matching=l2"], ["meta.matching=l2", "nothing would be learned"]),
        ("q_lambda", ["agent.network=deep"], ["agent.network=deep", "separate"]),
        ("bmg", ["meta.matching=value"], ["meta.matching=value", "nothing would be learned"]),
        ("bmg", ["agent.vtrace_lambda=0.5"], ["agent.vtrace_lambda=0.5", "must be 1.0"]),
        ("mg", ["meta.target_learning_rate=0.1"], ["meta.target_learning_rate=0.1", "mg means"]),
        ("actor_critic", ["meta.matching=kll"], ["meta.matching=kll", "'kl'"]),
        ("bmg", ["learner.devices=999", "seeds=1000"], ["learner.devices=999", "0 takes all"]),
        (
            "q_lambda",
            ["learner.learning_rate_schedule=linear", "total_frames=3e9"],
            ["total_frames=3000000000", "constant"],
        ),
    ],
)
def test_two_colours(tmp_path, name, overrides, parts):
    folder = tmp_path / "run"
    result = bmg("train", f"two_colours/{name}", *overrides, "--run-dir", folder)
    _refused(result, folder, *parts)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("meta.bootstrap_steps=2", "meta.keep_bootstrapped=true"),
        ("replay.unrolls=2", "must be 0"),
        ("evaluation.every_frames=100", "must be 0"),
        ("learner.processes=2", "seed, seeds"),
        ("learner.unroll_length=1e9", "GiB"),
        ("agent.network=deeep", "shallow"),
    ],
)
def test_what_no_game_on_the_device_has(tmp_path, override, part):
    folder = tmp_path / "run"
    given = ("actors.runtime=on_device", "meta.bootstrap_steps=1", override)
    result = bmg("train", "catch/bmg", *given, "--run-dir", folder)
    _refused(result, folder, override.split("=")[0], part)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("seeds=3", "actors.runtime=on_device"),
        ("actors.runtime=on_device", "ray, in_process"),
        ("agent.algorithm=q_lambda", "impala, stacx, bmg"),
        ("agent.network=separate", "shallow_atari"),
        ("meta.learned=[epsilon]", "no gradient"),
        ("env.swap_period=5", "two_colours"),
        ("env.respawn=all", "two_colours"),
        ("env.collection_discount=0", "two_colours"),
    ],
)
def test_what_only_two_colours_has(tmp_path, override, part):
    folder = tmp_path / "run"
    result = bmg("train", "atari/quickstart", override, "--run-dir", folder)
    _refused(result, folder, override.split("[")[0].split("=")[0], part)
