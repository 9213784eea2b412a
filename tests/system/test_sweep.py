"""`bmg sweep` with real trainings, real kills and a real Ray."""

import json
import re
import signal

import psutil
import pytest
from ray.cluster_utils import Cluster

from scripts.sweep import dry_run, trials
from scripts.sweep.sweep import sweep as run_sweep
from tests.system.command import bmg, read_metrics, read_summary, start, wait_for

_SWEEP = """
base: catch/impala
set:
  total_frames: {frames}
  actors.runtime: in_process
  checkpoint.every_seconds: 1
  logging.every_seconds: 0.5
  logging.tensorboard: false
  evaluation.every_frames: {half}
  evaluation.episodes: 4
variants:
  slow: {{learner.learning_rate: 1e-4}}
  fast: {{learner.learning_rate: 1e-3}}
grid:
  seed: [0, 1]
resources: {{cpus: 1}}
"""


@pytest.fixture
def sweep(tmp_path):
    def write(frames):
        file = tmp_path / "catch.yaml"
        file.write_text(_SWEEP.format(frames=frames, half=frames // 2))
        return file

    return write


def _trials(results):
    return sorted(path for path in results.iterdir() if path.is_dir())


def _finished(results):
    """Trials with nothing left to do: trained, and both snapshots evaluated."""
    return [
        path
        for path in (_trials(results) if results.is_dir() else [])
        if len(list(path.glob("evaluation-at-*.json"))) == 2
        and read_summary(path)["status"] == "finished"
    ]


def _learns(path):
    return bool(read_metrics(path)) and read_summary(path)["status"] == "running"


def _statuses(results):
    return [read_summary(path)["status"] for path in _trials(results)]


@pytest.mark.ci
def test_killed_half_way_and_resumed_it_repeats_nothing(tmp_path, sweep):
    """SIGKILL: Ray's processes, and the trainings under them, end on their own."""
    results, file = tmp_path / "results", sweep(400_000)
    process = start("sweep", file, "--results", results)
    wait_for(
        lambda: _finished(results) and any(map(_learns, _trials(results))),
        240,
        "a trial is finished and another one learns",
    )
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    finished = _finished(results)
    assert len(finished) < 4, "killed too late to interrupt anything"
    before = {p: (p / "metrics.jsonl").stat().st_mtime_ns for p in finished}
    refused = bmg("sweep", file, "--results", results)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    changed = bmg("sweep", file, "--results", results, "--resume", "agent.discount=0.5")
    assert changed.returncode == 2
    assert "agent.discount=0.5: the run in" in changed.stderr
    resumed = bmg("sweep", file, "--results", results, "--resume")
    assert resumed.returncode == 0, resumed.stderr + resumed.stdout
    assert f"4 trials ({len(finished)} were finished before)" in resumed.stdout
    assert [p.name for p in _trials(results)] == [
        *("fast-seed0", "fast-seed1", "slow-seed0", "slow-seed1")
    ]
    assert _statuses(results) == ["finished"] * 4
    assert before == {p: (p / "metrics.jsonl").stat().st_mtime_ns for p in finished}
    for path in _trials(results):
        frames = [line["frames"] for line in read_metrics(path)]
        assert frames == sorted(set(frames))
        evaluations = [json.loads(f.read_text()) for f in path.glob("evaluation-at-*.json")]
        assert len(evaluations) == 2
        assert all(e["episodes"] == 4 for e in evaluations)
    _, alive = psutil.wait_procs(family, timeout=180)
    assert not alive
    again = bmg("sweep", file, "--results", results, "--resume")
    assert again.returncode == 0
    assert "4 trials (4 were finished before)" in again.stdout


def _has(path):
    return (path / "summary.json").is_file()


@pytest.mark.ci
@pytest.mark.parametrize("background", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ctrl_c_saves_all_trials(tmp_path, sweep, background):
    """Also of a sweep that a shell script has put into its background, where SIGINT is ignored."""
    results, file = tmp_path / "results", sweep(100_000_000)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if background else signal.SIG_DFL)
    try:
        process = start("sweep", file, "--results", results)
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(
        lambda: (
            results.is_dir() and len([p for p in _trials(results) if len(read_metrics(p)) > 2]) == 2
        ),
        what="two trials learn",
    )
    running = [p for p in _trials(results) if _has(p)]
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    assert "--resume" in out
    assert [read_summary(p)["status"] for p in running] == ["interrupted"] * 2


def test_the_reason_of_a_traceback_is_its_error():
    """JAX ends one with advice; a refusal and a failure that was foreseen are the last line."""
    traceback = "Traceback (most recent call last):\n  File x\njax.errors.TracerError: no\n----\n"
    for said, reason in (
        ("bmg: the run failed: no memory is left", "bmg: the run failed: no memory is left"),
        (f"{traceback}bmg: the run failed: it", "bmg: the run failed: it"),
        (f"{traceback}For simplicity, JAX has removed its frames.", "jax.errors.TracerError: no"),
        ("Killed", "Killed"),
        ("", "it said nothing"),
    ):
        assert trials._reason(said) == reason


@pytest.mark.ci
def test_a_failed_trial_is_tried_again_and_told_and_the_others_go_on(tmp_path):
    file = tmp_path / "one_bad.yaml"
    file.write_text("""
base: catch/impala
set:
  env.suite: gymnasium
  env.reward_clip: 0
  actors.runtime: in_process
  total_frames: 8000
grid:
  env.game:
    - tests.actors.environments_for_tests:Stuck-v0
    - tests.actors.environments_for_tests:Endless-v0
resources: {cpus: 1}
""")
    results = tmp_path / "results"
    result = bmg("sweep", file, "--results", results)
    assert result.returncode == 1
    stuck, endless = (
        next(p for p in _trials(results) if name in p.name) for name in ("Stuck", "Endless")
    )
    assert read_summary(endless)["status"] == "finished"
    assert re.search(r"1 of 2 trials: \S*Stuck", result.stderr)
    assert "the cartridge is dirty" in result.stdout
    log = stuck.with_name(f"{stuck.name}.log").read_text()
    assert log.count("bmg: ") == 2, "it was tried twice"


def test_all_faults_at_once_before_anything_starts(tmp_path):
    results = tmp_path / "results"
    result = bmg(
        *("sweep", "sweeps/smoke", "env.game=[pong,pongg]", "learner.bach_size=8"),
        *("agent.discount=2", "--results", results),
    )
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("bmg: ") for line in lines)
    for part in ("learner.bach_size", "agent.discount=2", "env.game=pongg"):
        assert any(part in line for line in lines)
    assert not results.exists()


@pytest.mark.slow
def test_trials_keep_the_schedule_that_they_replay(tmp_path):
    """The sweep goes on when the run that the schedule comes from is gone."""
    source, file, results = tmp_path / "source", tmp_path / "replays.yaml", tmp_path / "results"
    short = ("actors.runtime=in_process", "total_frames=3000")
    assert bmg("train", "catch/bmg", *short, "--run-dir", source).returncode == 0
    file.write_text(f"""
base: catch/impala
set: {{actors.runtime: in_process, total_frames: 3000, hyperparameters_from: {source}}}
grid: {{seed: [0]}}
""")
    assert bmg("sweep", file, "--results", results).returncode == 0
    source.rename(tmp_path / "elsewhere")
    anew = bmg("sweep", file, "--results", tmp_path / "new")
    assert anew.returncode == 2
    assert "holds no run" in anew.stderr
    resumed = bmg("sweep", file, "--results", results, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "1 were finished before" in resumed.stdout


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_trials_with_actors(tmp_path, shared):
    """Each trial starts a Ray of its own inside the sweep's, or all have their actors on one."""
    results, file = tmp_path / "results", tmp_path / "actors.yaml"
    where = "actors.ray_address: auto" if shared else ""
    file.write_text(f"""
base: catch/impala
set: {{total_frames: 20000, actors.count: 1, actors.envs_per_actor: 16, {where}}}
grid: {{seed: [0, 1]}}
""")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4}) if shared else None
    try:
        joins = [f"ray_address={cluster.address}"] if cluster else []
        result = bmg("sweep", file, *joins, "--results", results)
        assert result.returncode == 0, result.stderr
        for trial in _trials(results):
            assert read_summary(trial)["frames"] >= 20_000
            assert read_summary(trial)["actors/alive"] == 1
    finally:
        if cluster:
            cluster.shutdown()


@pytest.mark.slow
def test_dry_run_estimates_and_creates_nothing(tmp_path, sweep):
    file = sweep(1_000_000)
    result = bmg("sweep", file, "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "4 trials, 4,000,000 frames" in result.stdout
    assert len(re.findall(r"[\d,]+ frames/s alone", result.stdout)) == 2
    assert re.search(r"about [\d.]+ hours", result.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["catch.yaml"]


@pytest.mark.ci
def test_two_processes_never_train_into_one_folder(tmp_path):
    folder = tmp_path / "run"
    run = ("train", "catch/impala", "actors.runtime=in_process", "total_frames=100000000")
    first = start(*run, "--run-dir", folder)
    wait_for(lambda: len(read_metrics(folder)) > 0, what="it learns")
    second = bmg(*run, "--run-dir", folder, "--resume")
    assert second.returncode == 2
    assert "another process trains into it" in second.stderr
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)
    assert read_summary(folder)["status"] == "interrupted"


@pytest.mark.ci
def test_what_no_node_has_is_refused_before_anything_is_created(tmp_path, sweep):
    results, file = tmp_path / "results", sweep(1_000)
    for override in ("resources.cpus=999", "resources.gpus=99"):
        result = bmg("sweep", file, override, "--results", results)
        assert result.returncode == 2
        assert "no node has" in result.stderr
        assert not results.exists()


def test_what_trials_name_is_looked_up_before_any_starts(tmp_path):
    results, file = tmp_path / "results", tmp_path / "misspelt.yaml"
    file.write_text("""
base: catch/bmg
grid: {meta.matching: [kl, kll], env.suite: [catch], seed: [0, 1]}
""")
    result = bmg("sweep", file, "--results", results)
    assert result.returncode == 2
    assert "bmg: meta.matching=kll" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    file.write_text("""
base: catch/impala
set: {env.suite: gymnasium}
grid: {env.game: [CartPole-v1, CartPol-v1, Pendulum-v1], seed: [0, 1]}
""")
    result = bmg("sweep", file, "--results", results)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert ["CartPol-v1" in lines[0], "not Discrete" in lines[1]] == [True, True]
    assert len(lines) == 2
    assert not results.exists()


def test_dry_run_of_what_is_too_slow_to_be_timed(tmp_path, sweep, monkeypatch, capsys):
    """The list and the frames come all the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "_MEASURE_SECONDS", 0.5)  # not even Python has started
    assert run_sweep(str(sweep(1_000)), [], None, False, True) == 0
    shown = capsys.readouterr().out
    assert "fast-seed1: catch/impala, 1,000 frames" in shown
    assert "4 trials, 4,000 frames" in shown
    assert "slow: unknown, no update in 0.5 s" in shown
    assert "about 0.0 hours, and the unknown time of slow, fast, on this machine" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["catch.yaml"]


def test_speed_of_a_run_by_its_metrics():
    def speed(*lines, seeds=1):
        rows = [{"frames": frames, "seconds": seconds} for frames, seconds in lines]
        return dry_run._frames_per_second(rows, seeds)

    assert speed() is None
    assert speed((0, 0.0)) is None
    assert speed((960, 120.0)) == 8.0  # of one line: from the start on
    assert speed((100, 100.0), (300, 110.0), seeds=2) == 40.0  # without compilation
    assert speed((100, 100.0), (100, 110.0)) is None
