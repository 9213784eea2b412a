"""`bmg train` from start to end in real processes: run folder, signals, resume, faults."""

import json
import os
import signal

import psutil
import pytest

from tests.system.command import bmg, on_terminal, read_metrics, read_summary, start, wait_for

CATCH = ("train", "catch/impala", "logging.every_seconds=0.5")
PROMISED = (  # by the contract
    *("env_steps", "learner_updates", "seconds", "frames_per_second", "episode_return"),
    *("episode_length", "episodes", "policy_lag", "actors/alive", "actors/restarts"),
    *("loss/total", "loss/policy", "loss/value", "loss/entropy"),
)
IN_PROCESS = (*CATCH, "actors.runtime=in_process")


def test_catch_is_learned_with_ray_actors(tmp_path):
    """To a mean return of 0.9; two minutes on 2 cores that nobody shares, start-up included."""
    folder = tmp_path / "run"
    result = bmg("train", "catch/impala", "--run-dir", folder)
    assert result.returncode == 0, result.stderr
    assert "finished" in result.stdout
    summary = read_summary(folder)
    assert summary["status"] == "finished"
    assert summary["episode_return"] >= 0.9
    assert summary["frames"] >= 400_000
    last = read_metrics(folder)[-1]
    assert last["frames"] == summary["frames"]
    for key in PROMISED:
        assert last[key] is not None, key
    assert last["episode_length"] == 9
    assert (folder / "config.yaml").is_file()
    assert list((folder / "tensorboard").iterdir())
    evaluation = bmg("evaluate", folder, "--episodes", 40, "--video", tmp_path / "catch.mp4")
    assert evaluation.returncode == 0, evaluation.stderr
    scores = json.loads((folder / "evaluation.json").read_text())
    assert scores["mean_return"] >= 0.8
    assert len(scores["returns"]) == 40
    assert (tmp_path / "catch.mp4").stat().st_size > 500
    report = bmg("report", folder)
    assert report.returncode == 0, report.stderr
    assert (folder / "curve.png").stat().st_size > 5_000
    assert "| catch |" in (folder / "table.md").read_text()


@pytest.mark.ci
def test_nothing_follows_the_last_line_on_a_terminal(tmp_path):
    """Ray's library of colours wrote its last word into a display that was closed."""
    folder = tmp_path / "run"
    short = ("total_frames=20000", "actors.count=1", "logging.tensorboard=false")
    status, shown = on_terminal(*CATCH, *short, "--run-dir", folder)
    assert status == 0, shown
    last = shown.replace(b"\x1b[?25h", b"").rstrip()  # which shows the cursor again
    assert last.endswith(str(folder).encode())


@pytest.mark.ci
def test_atari_end_to_end(tmp_path):
    folder = tmp_path / "run"
    result = bmg("train", "atari/quickstart", "total_frames=12000", "--run-dir", folder)
    assert result.returncode == 0, result.stderr
    summary = read_summary(folder)
    assert summary["status"] == "finished"
    assert summary["frames"] == 4 * summary["env_steps"]
    assert summary["protocol"]["game"] == "pong"
    assert summary["protocol"]["sticky_actions"] == 0.0
    video = tmp_path / "pong.mp4"
    evaluation = bmg("evaluate", folder, "--episodes", 1, "--policy", "random", "--video", video)
    assert evaluation.returncode == 0, evaluation.stderr
    scores = json.loads((folder / "evaluation-random.json").read_text())
    assert -21 <= scores["mean_return"] < 0
    assert scores["protocol"]["ale_py"]
    assert video.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("number", "status", "runtime"),
    [
        pytest.param(signal.SIGTERM, 143, "ray", marks=pytest.mark.ci),
        pytest.param(signal.SIGINT, 130, "ray", marks=pytest.mark.slow),
        (signal.SIGHUP, 129, "in_process"),
    ],
)
def test_signals_save_and_resume_goes_on(tmp_path, number, status, runtime):
    """The whole process group gets the signal, as with Ctrl-C; nothing is left running."""
    folder = tmp_path / "run"
    arguments = (*CATCH, f"actors.runtime={runtime}", "total_frames=100000000")
    process = start(*arguments, "--run-dir", folder)
    wait_for(lambda: len(read_metrics(folder)) >= 2, what="two lines of metrics")
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status, errors
    summary = read_summary(folder)
    assert summary["status"] == "interrupted"
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    learned = summary["frames"]
    newest = max(int(p.name) for p in (folder / "checkpoints").iterdir())
    assert newest == summary["learner_updates"]
    more = learned + 20_000
    resumed = bmg(
        *CATCH, f"actors.runtime={runtime}", f"total_frames={more}", "--run-dir", folder, "--resume"
    )
    assert resumed.returncode == 0, resumed.stderr
    lines = read_metrics(folder)
    frames = [line["frames"] for line in lines]
    assert frames == sorted(frames)
    after = [line for line in lines if line["frames"] > learned]
    assert after[-1]["learner_updates"] > newest
    assert after[-1]["seconds"] > summary["seconds"]
    assert read_summary(folder)["status"] == "finished"


@pytest.mark.ci
def test_resume_passes_over_a_damaged_checkpoint_and_refuses_another_configuration(tmp_path):
    folder = tmp_path / "run"
    run = (*IN_PROCESS, "checkpoint.every_seconds=0.2", "--run-dir", folder)
    assert bmg(*run, "total_frames=60000").returncode == 0
    versions = sorted(int(p.name) for p in (folder / "checkpoints").iterdir())
    assert len(versions) == 3
    newest = folder / "checkpoints" / str(versions[-1])
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    before = (folder / "metrics.jsonl").read_bytes()
    other = bmg(*run, "learner.learning_rate=0.5", "--resume")
    assert other.returncode == 2
    assert "learner.learning_rate=0.5" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1
    assert (folder / "metrics.jsonl").read_bytes() == before
    resumed = bmg(*run, "total_frames=90000", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"{versions[-1]} is damaged" in resumed.stderr
    assert read_summary(folder)["frames"] >= 90_000


@pytest.mark.ci
def test_all_checkpoints_damaged_is_a_failure_that_says_so(tmp_path):
    folder = tmp_path / "run"
    assert bmg(*IN_PROCESS, "total_frames=5000", "--run-dir", folder).returncode == 0
    for checkpoint in (folder / "checkpoints").iterdir():
        (checkpoint / "manifest.json").write_text("{")
    for command in (
        (*IN_PROCESS, "total_frames=9000", "--run-dir", folder, "--resume"),
        ("evaluate", folder),
    ):
        result = bmg(*command)
        assert result.returncode == 1
        assert "no usable checkpoint" in result.stderr
        assert str(folder) in result.stderr
    for checkpoint in (folder / "checkpoints").iterdir():
        for path in sorted(checkpoint.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        checkpoint.rmdir()
    for command in (
        (*IN_PROCESS, "total_frames=9000", "--run-dir", folder, "--resume"),
        ("evaluate", folder),
    ):
        result = bmg(*command)
        assert result.returncode == 2
        assert "holds no checkpoint" in result.stderr


def _gymnasium(name):
    game = f"tests.actors.environments_for_tests:{name}-v0"
    return ("train", "catch/impala", "env.suite=gymnasium", f"env.game={game}")


def _failure(folder, game, *overrides):
    """Trains on a game that breaks: exit 1; returns the line that says so, complete in itself."""
    result = bmg(*_gymnasium(game), *overrides, "--run-dir", folder)
    assert result.returncode == 1
    line = result.stderr.strip().splitlines()[-1]
    for part in (f"{game}-v0", "update ", "actor ", str(folder)):
        assert part in line
    assert read_summary(folder)["status"] == "failed"
    return line


@pytest.mark.parametrize("runtime", [pytest.param("ray", marks=pytest.mark.slow), "in_process"])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, runtime):
    folder = tmp_path / "run"
    line = _failure(folder, "Diverging", "env.reward_clip=0", f"actors.runtime={runtime}")
    assert "rewards of its environments hold NaN or infinities" in line
    assert line.count("update ") == 1


@pytest.mark.parametrize("runtime", [pytest.param("ray", marks=pytest.mark.slow), "in_process"])
def test_an_environment_that_raises_at_once_ends_the_run(tmp_path, runtime):
    folder = tmp_path / "run"
    long_unrolls = "learner.unroll_length=60"  # of which the environments survive about 42
    patience = "actors.max_failures=2"
    line = _failure(folder, "Raising", long_unrolls, patience, f"actors.runtime={runtime}")
    assert "joystick is broken" in line
    assert "joystick" in read_summary(folder)["reason"]


@pytest.mark.ci
def test_killed_at_any_moment_it_resumes(tmp_path):
    """SIGKILL of the learner leaves a run that goes on, and its Ray processes end with it."""
    folder = tmp_path / "run"
    process = start(
        *CATCH, "total_frames=100000000", "checkpoint.every_seconds=1", "--run-dir", folder
    )
    wait_for(lambda: len(read_metrics(folder)) >= 4, what="four lines of metrics")
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert read_summary(folder)["status"] == "running"
    total = read_metrics(folder)[-1]["frames"] + 20_000
    resumed = bmg(*CATCH, f"total_frames={total}", "--run-dir", folder, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    # Nobody told them: Ray's agents look after their parent now and then.
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive
    frames = [line["frames"] for line in read_metrics(folder)]
    assert frames == sorted(set(frames))
