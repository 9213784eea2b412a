"""Aggregates against rliable's own and against definitions written out."""

import warnings

import numpy as np
import pytest

from scripts.report import scores

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from rliable import library, metrics


@pytest.fixture(scope="module")
def table():
    """[S, G]: three seeds of 57 games, with the long tail that human-normalised scores have."""
    return np.exp(np.random.default_rng(0).normal(0.3, 1.4, (3, 57))) - 0.3


@pytest.mark.filterwarnings("ignore:random_state is deprecated")
def test_values_and_intervals_agree_with_rliable(table):
    ours = scores.aggregate(list(table.T), np.random.default_rng(1))
    theirs = {
        "median": metrics.aggregate_median,
        "IQM": metrics.aggregate_iqm,
        "mean": metrics.aggregate_mean,
        "optimality gap": metrics.aggregate_optimality_gap,
    }
    points, intervals = library.get_interval_estimates(
        {"ours": table},
        lambda x: np.array([function(x) for function in theirs.values()]),
        reps=2_000,
        random_state=np.random.RandomState(2),
    )
    for index, name in enumerate(theirs):
        np.testing.assert_allclose(ours[name].value, points["ours"][index], rtol=1e-12)
        low, high = intervals["ours"][:, index]
        # Both are Monte Carlo: their ends differ by little beside the interval's width.
        assert abs(ours[name].low - low) < 0.1 * (high - low), name
        assert abs(ours[name].high - high) < 0.1 * (high - low), name


def test_values_agree_with_definitions_written_out(table):
    found = scores.aggregate(list(table.T), np.random.default_rng(1))
    runs = sorted(float(x) for x in table.ravel())
    middle = runs[int(0.25 * 171) : 171 - int(0.25 * 171)]
    of_games = sorted(sum(map(float, column)) / 3 for column in table.T)
    assert found["median"].value == pytest.approx(of_games[28])
    assert found["IQM"].value == pytest.approx(sum(middle) / len(middle))
    assert found["mean"].value == pytest.approx(sum(runs) / 171)
    assert found["optimality gap"].value == pytest.approx(sum(max(0.0, 1 - x) for x in runs) / 171)


def test_games_may_have_different_numbers_of_seeds():
    found = scores.aggregate([np.array([0.0, 2.0]), np.array([4.0])], np.random.default_rng(0))
    assert found["mean"].value == 2.5
    assert found["mean"].low == 2.0  # the first game's mean is 0, 1 or 2
    assert found["mean"].high == 3.0
    assert found["IQM"].value == 2.0


def test_performance_profile_agrees_with_rliable(table):
    thresholds = np.linspace(0, 5, 21)
    ours = scores.performance_profile(list(table.T), thresholds, np.random.default_rng(1))
    points, intervals = library.create_performance_profile({"ours": table}, thresholds, reps=500)
    np.testing.assert_allclose(ours.value, points["ours"])
    np.testing.assert_allclose(ours.low, intervals["ours"][0], atol=0.02)
    np.testing.assert_allclose(ours.high, intervals["ours"][1], atol=0.02)


def test_over_time_each_frame_count_is_an_aggregate(table):
    growing = [np.stack([0.5 * game, game], axis=1) for game in table.T]
    found = scores.aggregate_over_time(growing, "IQM", np.random.default_rng(1))
    last = scores.aggregate(list(table.T), np.random.default_rng(1))["IQM"]
    np.testing.assert_allclose(found.value, [0.5 * last.value, last.value])
    np.testing.assert_allclose(found.high, [0.5 * found.high[1], found.high[1]])


@pytest.mark.parametrize(
    ("score", "baseline", "expected"), [(30.0, 30.0, 0.0), (30.0, 10.0, 1.0), (100.0, 60.0, 0.8)]
)
def test_relative_score(score, baseline, expected):
    assert scores.relative_score(score, baseline, random=10.0, human=30.0) == expected


def test_final_score_is_the_mean_of_the_last_twentieth():
    frames = np.array([50, 94, 96, 98, 100])
    returns = np.array([1.0, 2.0, np.nan, 4.0, 6.0])
    assert scores.final_score(frames, returns, 100) == 5.0
    assert np.isnan(scores.final_score(frames[:2], returns[:2], 100))


def test_atari_5_agrees_with_its_formula_written_out():
    """In percent; human scores everywhere give 10^(0.9653 log10(101)) - 1."""
    human = {game: np.ones(1) for game in scores.ATARI_5}
    found = scores.atari_5(human, np.random.default_rng(0))
    assert float(found.value) == pytest.approx(101**0.9653 - 1)
    means = {
        "battle_zone": 40,
        "double_dunk": -300,
        "name_this_game": 250,
        "phoenix": 0,
        "qbert": 9,
    }
    seeds = {game: np.array([mean / 100 - 0.02, mean / 100 + 0.02]) for game, mean in means.items()}
    found = scores.atari_5(seeds, np.random.default_rng(0))
    by_hand = 41**0.3820 * 1**0.0679 * 251**0.3108 * 1**0.1241 * 10**0.0805 - 1
    assert float(found.value) == pytest.approx(by_hand)
    assert found.low < found.value < found.high
