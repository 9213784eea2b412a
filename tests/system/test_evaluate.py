"""`bmg evaluate`: episodes without an end, films of them, and what a user sees meanwhile."""

import functools
import json

import jax
import numpy as np
import pytest

from actors.evaluation import play_episodes
from agents.networks import Heads, make_network
from scripts import evaluation_display
from scripts.evaluation_display import EvaluationDisplay
from tests.actors.specs import CATCH, gymnasium_spec
from tests.system.command import bmg, on_terminal, read_summary

GAME = "tests.actors.environments_for_tests:Endless-v0"


@functools.cache
def _params(suite):
    size, actions = (50, 3) if suite == "catch" else (3, 4)
    network = make_network("shallow", actions, (size,), np.float32, Heads(0, 0, False))
    return network.init(jax.random.key(0))


def _play(spec, episodes, num_envs, on_step=lambda moment: None):
    """With a policy that draws at random."""
    params = _params(spec.suite)
    many = {"episodes": episodes, "seed": 3, "num_envs": num_envs, "threads": 1}
    return play_episodes(spec, "shallow", "random", params, **many, on_step=on_step)


@pytest.mark.ci
def test_episodes_without_an_end_are_cut_in_a_real_run(tmp_path):
    """On a terminal, which shows how far it is; once more with a film."""
    folder, film = tmp_path / "run", tmp_path / "film.mp4"
    run = ("train", "catch/impala", "env.suite=gymnasium", f"env.game={GAME}", "total_frames=200")
    run = (*run, "actors.runtime=in_process", "evaluation.max_episode_frames=40")
    trained = bmg(*run, "--run-dir", folder)
    assert trained.returncode == 0, trained.stderr
    status, shown = on_terminal("evaluate", folder, "--episodes", 3, "--video", film, timeout=120)
    assert status == 0, shown
    assert b"3 of them cut by a time limit" in shown
    result = json.loads((folder / "evaluation.json").read_text())
    assert result["lengths"] == [40, 40, 40]
    assert result["cut"] == 3
    assert result["protocol"]["max_episode_frames"] == 40
    assert film.stat().st_size > 1_000


@pytest.mark.parametrize(
    ("spec", "limit", "lengths", "cut"),
    [
        (gymnasium_spec("Endless"), 7, [7] * 5, 5),
        (gymnasium_spec("Counting"), 100, [2, 2, 3, 3, 3], 2),  # the odd ones by its own limit
        (gymnasium_spec("Counting"), 2, [2] * 5, 5),
        (CATCH, 100, [9] * 5, 0),
        (CATCH, 4, [4] * 5, 5),
    ],
)
def test_every_suite_cuts_and_counts(spec, limit, lengths, cut):
    """Five episodes of two environments, which also go on after a cut."""
    moments = []
    played = _play(spec._replace(max_episode_frames=limit), 5, 2, moments.append)
    assert sorted(episode.frames for episode in played.episodes) == lengths
    assert played.cut == cut
    assert [m.finished for m in moments] == sorted(m.finished for m in moments)
    assert moments[0].frames == 1
    assert not moments[0].sure
    assert moments[0].frames_left == 3 * limit - 1  # of three episodes, one has begun
    assert moments[-1].frames_left == 0
    assert moments[-1].sure


def test_scores_of_what_is_cut_are_of_its_own_frames():
    """Counting's reward is 10 a step and more: nothing of an episode runs into the next one."""
    played = _play(gymnasium_spec("Counting")._replace(max_episode_frames=2), 4, 1)
    firsts = [episode.score // 100 for episode in played.episodes]
    assert firsts == [2 * index for index in range(4)]  # two steps of 100 * episode


def test_plain_lines_tell_the_time_left(monkeypatch, capsys):
    monkeypatch.setattr(evaluation_display, "_LINE_SECONDS", 0.0)
    display = EvaluationDisplay("endless, 200 frames", 4)
    _play(gymnasium_spec("Endless")._replace(max_episode_frames=60), 4, 2, display.show)
    display.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("endless, 200 frames: 0/4 episodes  frames 2 each  left at most 0:0")
    assert lines[88].startswith("endless, 200 frames: 2/4 episodes  frames 90 each  left 0:0")
    assert lines[-1].endswith("left 0:00:00")


@pytest.mark.ci
def test_an_environment_that_raises_is_named_in_one_line_and_what_was_learned_is_kept(tmp_path):
    """In a training and in its evaluation; log.txt has the traceback, of what is a user's code."""
    folder, game = tmp_path / "run", "tests.actors.environments_for_tests:Wearing-v0"
    run = ("train", "catch/impala", "env.suite=gymnasium", f"env.game={game}")
    run = (*run, "actors.runtime=in_process", "checkpoint.every_seconds=1e9", "--run-dir", folder)
    for times, command in ((1, run), (2, ("evaluate", folder))):
        failed = bmg(*command)
        assert failed.returncode == 1
        *told, line = failed.stderr.splitlines()
        assert [f"names the environment {game.partition(':')[0]}: " in x for x in told] == [
            True
        ] * (times - 1)
        for part in (game, "RuntimeError: the joystick is worn", f"run folder: {folder}"):
            assert part in line
        assert "environments_for_tests.py:" in line
        log = (folder / "log.txt").read_text()
        assert log.count('environments_for_tests.py", line') == times
    summary = read_summary(folder)
    assert summary["status"] == "failed"
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
    saved = json.loads((newest / "progress.json").read_text())
    assert saved["updates"] == summary["learner_updates"] > 0
