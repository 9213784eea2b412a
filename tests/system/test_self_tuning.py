"""Self-tuned hyper-parameters in real processes: training, resuming, replaying, reporting."""

import numpy as np
import pytest

from configs.load import load
from tests.system.command import bmg, read_metrics

LEARNED = load("catch/bmg").meta.learned
BMG = (
    *("train", "catch/bmg", "logging.every_seconds=0.5", "meta.inner_steps=2"),
    *("replay.unrolls=8", "actors.envs_per_actor=8", "agent.auxiliary_heads=1"),
    "actors.runtime=in_process",
)


def _replayable(folder):
    """Learned values at each line, and the learner updates of the line."""
    keys = [f"meta/{name}" for name in LEARNED] + [f"meta/auxiliary_1/{name}" for name in LEARNED]
    lines = read_metrics(folder)
    return [line["learner_updates"] for line in lines], {k: [x[k] for x in lines] for k in keys}


@pytest.mark.ci
def test_bmg_trains_resumes_and_its_schedule_can_be_replayed(tmp_path):
    """K = 2, L = 2, a part of each batch replayed, an auxiliary head; the test below has Ray."""
    folder = tmp_path / "run"
    first = bmg(*BMG, "total_frames=60000", "--run-dir", folder)
    assert first.returncode == 0, first.stderr
    assert "  discount 0." in first.stdout  # one sees it move
    before = read_metrics(folder)[-1]
    assert before["learner_updates"] % 2 == 0
    resumed = bmg(*BMG, "total_frames=120000", "--run-dir", folder, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    last = read_metrics(folder)[-1]
    assert last["learner_updates"] > before["learner_updates"]
    for name in LEARNED:
        for key in (f"meta/{name}", f"meta/auxiliary_1/{name}"):
            assert last[key] != before[key], key  # it went on learning,
            assert abs(last[key] - before[key]) < 0.5  # from where it stopped
        assert last[f"meta/gradient/{name}"] > 0.0
    assert {"meta/loss", "meta/target_distance", "meta/gradient_norm"} <= set(last)
    cosines = [line["meta/cosine"] for line in read_metrics(folder) if "meta/cosine" in line]
    assert cosines
    assert all(-1.0001 <= cosine <= 1.0001 for cosine in cosines)
    events = b"".join(p.read_bytes() for p in (folder / "tensorboard").iterdir())
    assert b"meta/discount" in events
    report = bmg("report", folder)
    assert report.returncode == 0, report.stderr
    assert (folder / "hyperparameters.png").stat().st_size > 20_000

    replay = tmp_path / "replay"
    result = bmg(*BMG, "total_frames=120000", f"hyperparameters_from={folder}", "--run-dir", replay)
    assert result.returncode == 0, result.stderr
    knots, learned = _replayable(folder)
    updates, replayed = _replayable(replay)
    known = np.asarray(updates) >= knots[0]  # before that, from the source's starting values
    assert known.any()
    for key, values in replayed.items():
        expected = np.interp(updates, knots, learned[key])
        np.testing.assert_allclose(np.asarray(values)[known], expected[known], rtol=1e-4)
    assert "meta/loss" not in read_metrics(replay)[-1]

    folder.rename(tmp_path / "elsewhere")  # the copy in the run folder is enough
    assert bmg("evaluate", replay, "--episodes", 2).returncode == 0
    again = bmg(
        *(*BMG, "total_frames=130000", f"hyperparameters_from={folder}"),
        *("--run-dir", replay, "--resume"),
    )
    assert again.returncode == 0, again.stderr


@pytest.mark.ci
@pytest.mark.parametrize("algorithm", [pytest.param("stacx", marks=pytest.mark.slow), "bmg"])
def test_atari_tunes_itself(tmp_path, algorithm):
    """The published configurations, on a smaller network and for a few updates."""
    folder = tmp_path / "run"
    result = bmg(
        *("train", f"atari/{algorithm}", "agent.network=shallow", "total_frames=6000"),
        *("actors.count=2", "learner.devices=1", "--run-dir", folder),
    )
    assert result.returncode == 0, result.stderr
    last = read_metrics(folder)[-1]
    assert last["learner_updates"] >= 12
    if algorithm == "stacx":  # its meta-gradient is the plain one, in the whole system too
        cosines = [line["meta/cosine"] for line in read_metrics(folder) if "meta/cosine" in line]
        assert cosines
        np.testing.assert_allclose(cosines, 1.0, atol=1e-4)
    for name in LEARNED:
        assert last[f"meta/{name}"] > 0.0
        assert f"meta/auxiliary_2/{name}" in last


@pytest.mark.ci
def test_replaying_what_was_never_learned_is_refused(tmp_path):
    folder = tmp_path / "run"
    short = ("total_frames=2000", "actors.runtime=in_process")
    assert bmg("train", "catch/impala", *short, "--run-dir", folder).returncode == 0
    result = bmg(
        *("train", "catch/impala", *short, f"hyperparameters_from={folder}"),
        *("--run-dir", tmp_path / "replay"),
    )
    assert result.returncode == 2
    assert "has learned no hyper-parameter" in result.stderr
    assert not (tmp_path / "replay").exists()
