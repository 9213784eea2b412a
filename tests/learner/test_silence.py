"""Which lines of metrics mean that a hyper-parameter is not being learned."""

import numpy as np
import pytest

from learner.silence import Silence


def _heard(gradients, value=0.5, epsilon=1e-8, updates=50, name="discount"):
    """All warnings over lines with these gradients, of a hyper-parameter between 0 and 1."""
    silence, found = Silence({name: 1.0}, epsilon), []
    for line, gradient in enumerate(gradients):
        found += silence.warnings(
            {
                "learner_updates": updates * line,
                f"meta/gradient/{name}": gradient,
                f"meta/{name}": value,
            }
        )
    return found


def test_zero_from_the_start_is_said_once():
    (warning,) = _heard([0.0] * 30)
    assert "discount" in warning
    assert "exactly 0" in warning


@pytest.mark.parametrize(("value", "bound"), [(0.0, "bound 0,"), (1.0, "bound 1,")])
def test_a_value_at_its_bound_without_gradient(value, bound):
    (warning,) = _heard([3.0, 1e-5, *[0.0] * 5], value)
    assert bound in warning
    assert "meta.learning_rate" in warning


def test_a_gradient_far_below_epsilon():
    (warning,) = _heard([1e-7] * 5, epsilon=1e-4)
    assert "meta.epsilon=0.0001" in warning
    assert _heard([1e-5] * 50, epsilon=1e-4) == []


def test_what_is_heard_now_and_then_is_learned():
    assert _heard([0.0, 0.0, 1e-3] * 20) == []
    assert _heard([1e-6] * 50, value=1.0) == []  # at its bound, but with a gradient


def test_too_few_lines_or_updates_say_nothing():
    assert _heard([0.0] * 2) == []
    assert _heard([0.0] * 50, updates=1) == []
    assert len(_heard([0.0] * 51, updates=1)) == 1
    assert _heard([None, float("nan")] * 10) == []


def test_lines_without_gradients_say_nothing():
    assert Silence({"discount": 1.0}, 1e-8).warnings({"learner_updates": 1}) == []


def test_a_dead_seed_among_living_ones_is_named():
    """Their mean is far from silent."""
    silence = Silence({"discount": 1.0, "entropy_cost": 0.1}, 1e-8, seeds=range(7, 10))
    found = []
    for point in range(12):
        gradients = {"discount": np.array([3.0, 0.0, 2.0]), "entropy_cost": np.full(3, 0.1)}
        values = {"discount": np.array([0.9, 1.0, 0.9]), "entropy_cost": np.full(3, 0.05)}
        found += silence.of_seeds(12 * point, gradients, values)
    (warning,) = found
    assert warning.startswith("discount is not being learned by seed 8: it sits at its bound 1,")


def test_of_many_dead_seeds_some_are_named():
    silence, found = Silence({"discount": 1.0}, 1e-8, seeds=range(100)), []
    for point in range(3):
        found += silence.of_seeds(50 * point, {"discount": np.zeros(100)}, {})
    (warning,) = found
    assert "by seed 0, 1, 2, 3, 4 and 95 more: its meta-gradient is exactly 0" in warning
