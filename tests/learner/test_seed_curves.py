"""seeds.npz: what a resumed run takes up, and what it drops."""

import numpy as np
import pytest

from learner.on_device import CurvePoint
from learner.seed_curves import SeedCurves


def _point(frames):
    return CurvePoint(
        frames, np.asarray([frames, -frames]), {"meta/epsilon": np.asarray([0.1, 0.2])}
    )


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


def test_what_an_earlier_version_did_not_keep_is_unknown_before(tmp_path):
    _curves(tmp_path, (10, 20)).save()
    resumed = SeedCurves(tmp_path / "seeds.npz", (3, 4))
    resumed.read(20)
    resumed.add(_point(30)._replace(greedy_changes=np.asarray([0.1, 0.3])))
    resumed.save()
    saved = np.load(tmp_path / "seeds.npz")
    nan = np.nan
    np.testing.assert_allclose(saved["greedy_changes"], [[nan, nan, 0.1], [nan, nan, 0.3]])
    assert saved["reward"].shape == saved["greedy_changes"].shape


def test_a_file_that_does_not_reach_the_checkpoint_or_is_of_other_seeds_is_refused(tmp_path):
    _curves(tmp_path, (10, 20)).save()
    with pytest.raises(ValueError, match="no point at 30 steps"):
        SeedCurves(tmp_path / "seeds.npz", (3, 4)).read(30)
    with pytest.raises(ValueError, match="no point at 15 steps"):
        SeedCurves(tmp_path / "seeds.npz", (3, 4)).read(15)
    with pytest.raises(ValueError, match=r"of the seeds \[3, 4\]"):
        SeedCurves(tmp_path / "seeds.npz", (3, 5)).read(20)


def test_a_run_without_a_point_yet(tmp_path):
    _curves(tmp_path, ()).save()
    resumed = SeedCurves(tmp_path / "seeds.npz", (3, 4))
    # Nothing to take up: `read` is for runs that have a point at their checkpoint.
    resumed.add(_point(10))
    resumed.save()
    np.testing.assert_array_equal(np.load(tmp_path / "seeds.npz")["reward"], [[10], [-10]])
