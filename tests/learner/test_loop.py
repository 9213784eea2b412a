"""The loop against a source that plays a script: counting, lag, stopping, failing."""

import jax
import numpy as np
import pytest

from agents.settings import OptimizerSettings
from agents.trajectory import Episode, SourceFailed, Unroll
from learner.experience import Composition, FromSource, prepare
from learner.loop import LEARNING, Events, LearningDiverged, LoopSettings, Progress, run
from learner.replay import Replay
from tests.small import MetaProblem, random_batch, small_learner


class ScriptedSource:
    """Two unrolls of two environments a batch, `lag` versions old; may fail or send a NaN."""

    def __init__(self, lag=0, fail_at=None, nan_at=None, silent=False):
        self.lag, self.fail_at, self.nan_at, self.silent = lag, fail_at, nan_at, silent
        self.versions, self.batches = [], 0

    def publish(self, params, version):
        self.versions.append(version)

    def next_batch(self, timeout_seconds):
        if self.silent:
            return None
        if self.batches == self.fail_at:
            raise SourceFailed("actor 7 (pong) failed")
        unrolls = []
        for i in range(2):
            trajectory = random_batch(10 * self.batches + i, batch=2)
            if self.batches == self.nan_at:
                trajectory.reward[:] = np.nan
            steps = int(trajectory.valid.sum())
            unrolls.append(
                Unroll(
                    trajectory,
                    max(0, self.versions[-1] - self.lag),
                    f"actor {i} (pong)",
                    4 * steps,
                    steps,
                    (Episode(float(self.batches), 40),),
                    {},
                )
            )
        self.batches += 1
        return unrolls

    def statistics(self):
        return {"actors/alive": 2, "actors/restarts": 0}

    def save(self):
        return None

    def close(self):
        self.closed = True


def test_what_there_are_no_numbers_for_yet():
    """Until all actors have started, their unrolls have come, and the step is compiled."""
    learner, state = small_learner()
    source, told = ScriptedSource(), []
    runtime = FromSource(learner, source)
    source.statistics = lambda: {"actors/alive": 1, "actors/waiting": 1}
    told.append(runtime.waits_for())
    source.statistics = lambda: {"actors/alive": 2, "actors/waiting": 0}
    told.append(runtime.waits_for())
    placed = runtime.start(state, Progress())
    batch = runtime.next_batch(lambda: False, lambda: False)
    told.append(runtime.waits_for())
    runtime.step(placed, batch, Progress(updates=1))
    told.append(runtime.waits_for())
    assert told == [
        "1 of 2 actors have started",
        "the first unrolls of 2 actors",
        "compiling the learner's step",
        LEARNING,
    ]


def _train(source, total_frames=1000, stop=lambda: False, progress=None, log_every=0.0):
    learner, state = small_learner()
    progress = progress or Progress()
    lines, checkpoints = [], []
    state = run(
        FromSource(learner, source),
        state,
        progress,
        LoopSettings(total_frames, log_every, 0.0),
        stop,
        Events(lines.append, lambda state, progress, _: checkpoints.append(progress.updates)),
    )
    return state, progress, lines, checkpoints


@pytest.mark.parametrize(("norm", "share"), [(1e-6, 1.0), (1e6, 0.0)])
def test_counts_clipped_updates(norm, share):
    learner, state = small_learner()
    lines = []
    run(
        FromSource(learner, ScriptedSource(), max_gradient_norm=norm),
        state,
        Progress(),
        LoopSettings(300, 0.0, 1e9),
        lambda: False,
        Events(lines.append),
    )
    assert lines
    assert {line["loss/clipped"] for line in lines} == {share}


def test_counts_and_logs():
    source = ScriptedSource()
    state, progress, lines, checkpoints = _train(source)
    assert progress.frames >= 1000
    assert progress.frames == 4 * progress.env_steps
    assert progress.updates == int(state.updates) == len(source.versions) - 1
    assert progress.episodes == 2 * progress.updates
    assert [line["learner_updates"] for line in lines[:3]] == [1, 2, 3]
    assert checkpoints == list(range(1, progress.updates))
    assert {"frames", "seconds", "frames_per_second", "episode_return", "loss/total"} <= set(
        lines[0]
    )
    assert lines[2]["episode_return"] == pytest.approx(1.0)  # of batches 0, 1 and 2
    assert source.batches == progress.updates  # nothing is fetched that is not learned from


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_policy_lag_is_measured_in_updates(lag):
    _, _, lines, _ = _train(ScriptedSource(lag))
    assert lines[-1]["policy_lag"] == lines[-1]["policy_lag_max"] == lag
    assert lines[-1]["policy_lag_histogram"] == {str(lag): 2}


def test_stops_when_asked_while_learning_and_while_waiting():
    calls = iter([False] * 5 + [True] * 100)
    _, progress, lines, _ = _train(ScriptedSource(), stop=lambda: next(calls))
    assert 0 < progress.updates < 6
    assert lines[-1]["learner_updates"] == progress.updates
    calls = iter([False] * 5 + [True] * 100)
    _, progress, lines, _ = _train(ScriptedSource(silent=True), stop=lambda: next(calls))
    assert progress.updates == 0
    assert lines == []


@pytest.mark.parametrize(
    ("fail_at", "nan_at", "saved"), [(0, None, []), (2, None, [2]), (2, 1, [])]
)
def test_a_failed_source_ends_the_run_and_what_was_learned_is_given_away(fail_at, nan_at, saved):
    learner, state = small_learner()
    lines, checkpoints = [], []
    with pytest.raises(SourceFailed, match=r"actor 7 \(pong\)"):
        run(
            FromSource(learner, ScriptedSource(fail_at=fail_at, nan_at=nan_at)),
            state,
            Progress(),
            LoopSettings(1000, 1e9, 1e9),
            lambda: False,
            Events(lines.append, lambda state, *rest: checkpoints.append(int(state.updates))),
        )
    assert checkpoints == saved
    assert [line["learner_updates"] for line in lines] == saved


def test_a_non_finite_update_ends_the_run_and_says_where():
    with pytest.raises(LearningDiverged, match=r"update 3 .* actor 0 \(pong\), actor 1 \(pong\)"):
        _train(ScriptedSource(nan_at=2))


@pytest.mark.parametrize("total_frames", [1, 10**9])
def test_parameters_that_are_finite_and_no_good_are_not_given_away(total_frames):
    """Nor returned: the run's last update may be the one that was too long."""
    saved, (learner, state) = [], small_learner(optimizer=OptimizerSettings("sgd", 1e30))
    with pytest.raises(LearningDiverged, match="update"):
        run(
            FromSource(learner, ScriptedSource()),
            state,
            Progress(),
            LoopSettings(total_frames, 0.0, 0.0),
            lambda: False,
            Events(on_checkpoint=lambda state, *rest: saved.append(state)),
        )
    assert saved == []


def test_a_checkpoint_is_of_its_own_moment():
    """It is written an update later than it is taken."""
    learner, state = small_learner()
    expected, kept = {}, {}

    def on_checkpoint(state, progress, experience):
        kept[progress.updates] = state

    def on_snapshot(state, progress):
        expected[progress.updates] = jax.tree.map(np.array, state)

    source, settings = ScriptedSource(), LoopSettings(1000, 0.0, 0.0, snapshot_every_frames=1)
    run(
        FromSource(learner, source),
        state,
        Progress(),
        settings,
        lambda: False,
        Events(on_checkpoint=on_checkpoint, on_snapshot=on_snapshot),
    )
    assert list(kept) == list(expected)[:-1]
    for updates, state in kept.items():
        assert int(state.updates) == updates
        jax.tree.map(np.testing.assert_array_equal, state, expected[updates])


def test_a_finished_run_learns_nothing_more():
    progress = Progress(frames=1000, updates=7)
    source = ScriptedSource()
    _train(source, progress=progress)
    assert progress.updates == 7
    assert source.batches == 0


def _unrolls(count, batch=2):
    trajectories = [random_batch(i, batch=batch) for i in range(count)]
    return [Unroll(t, 0, "actor 0 (pong)", 0, 0, (), {}) for t in trajectories]


def test_experience_of_new_and_replayed_unrolls():
    replay = Replay(10**6, (0,))
    composition = Composition(online_batches=2, replayed=3, bootstrap_batches=2)
    first = prepare(_unrolls(2), composition, replay)
    assert first.online.action.shape == (2, 5, 5)  # [batches, T, new + replayed]
    assert first.bootstrap.action.shape == (2, 5, 5)
    assert len(replay) == 4
    unrolls = [
        u._replace(trajectory=random_batch(50 + i, batch=2)) for i, u in enumerate(_unrolls(2))
    ]
    second = prepare(unrolls, composition, replay)
    assert len(replay) == 8
    for i in range(2):
        new = unrolls[i].trajectory
        np.testing.assert_array_equal(second.online.reward[i, :, :2], new.reward)
    old = {x.trajectory.reward[:, i].tobytes() for x in _unrolls(2) for i in range(2)}
    replayed = np.concatenate([second.online.reward[:, :, 2:], second.bootstrap.reward], axis=2)
    for batch in replayed:
        for column in batch.T:
            assert np.ascontiguousarray(column).tobytes() in old


def test_without_replay_nothing_is_added():
    made = prepare(_unrolls(2), Composition(), None)
    assert made.online.action.shape == (1, 5, 4)
    assert made.bootstrap is None


def test_the_loop_runs_a_meta_learner_on_several_batches_a_step():
    learner, state = MetaProblem().learner(inner_steps=2)
    source, progress, lines = ScriptedSource(), Progress(), []
    run(
        FromSource(learner, source, Composition(2, bootstrap_batches=1), Replay(10**6, (0,))),
        state,
        progress,
        LoopSettings(1000, 0.0, 1e9),
        lambda: False,
        Events(lines.append),
    )
    assert progress.updates == 2 * source.batches
    assert source.versions[:3] == [0, 2, 4]
    assert [line["learner_updates"] for line in lines[:2]] == [2, 4]
    assert lines[0]["policy_lag_histogram"] == {"0": 1, "1": 1}
    assert -1.0 <= lines[0]["meta/cosine"] <= 1.0
    assert lines[-1]["meta/discount"] != pytest.approx(0.9, abs=1e-6)
