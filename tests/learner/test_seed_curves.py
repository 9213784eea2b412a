"""seeds.npz: what a resumed run takes up, and what it drops."""

import numpy as np

from learner.on_device import Point
from learner.seed_curves import SeedCurves


def _point(frames):
    return Point(frames, np.asarray([frames, -frames]), {"meta/epsilon": np.asarray([0.1, 0.2])})


def _curves(folder, frames):
    curves = SeedCurves(folder / "seeds.npz", (3, 4))
    for number in frames:
        curves.add(_point(number))
    return curves


def test_content(tmp_path):
    _curves(tmp_path, (10, 20, 30)).save()
    saved = np.load(tmp_path / "seeds.npz")
    np.testing.assert_array_equal(saved["seeds"], [3, 4])
    np.testing.assert_array_equal(saved["frames"], [10, 20, 30])
    np.testing.assert_array_equal(saved["reward"], [[10, 20, 30], [-10, -20, -30]])
    np.testing.assert_allclose(saved["meta/epsilon"], [[0.1] * 3, [0.2] * 3])
    assert [p.name for p in tmp_path.iterdir()] == ["seeds.npz"]


def test_what_came_after_the_checkpoint_comes_again(tmp_path):
    _curves(tmp_path, (10, 20, 30)).save()
    resumed = SeedCurves(tmp_path / "seeds.npz", (3, 4))
    resumed.read(20)
    resumed.add(_point(35))
    resumed.save()
    saved = np.load(tmp_path / "seeds.npz")
    np.testing.assert_array_equal(saved["frames"], [10, 20, 35])
    np.testing.assert_array_equal(saved["reward"][1], [-10, -20, -35])
    assert saved["meta/epsilon"].shape == (2, 3)


def test_a_run_without_a_point_yet(tmp_path):
    _curves(tmp_path, ()).save()
    resumed = SeedCurves(tmp_path / "seeds.npz", (3, 4))
    resumed.read(0)
    resumed.add(_point(10))
    resumed.save()
    np.testing.assert_array_equal(np.load(tmp_path / "seeds.npz")["reward"], [[10], [-10]])
