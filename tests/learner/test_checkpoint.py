"""Checkpoints: bit-equal, atomic, kept by number, and damage is noticed."""

import tempfile

import jax
import numpy as np
import pytest

from learner.checkpoint import CheckpointError, Checkpoints, Snapshot, open_snapshots
from learner.loop import Progress
from learner.run_folder import configuration_of
from tests.small import experience, random_batch, small_learner, small_state


def _trained(updates):
    learner, state = small_learner()
    state = learner.place_state(state)
    for i in range(updates):
        state, _ = learner.step(state, learner.place_batch(experience(random_batch(i))))
    return state


def _saved(folder, updates=(1, 2, 3), keep=3):
    checkpoints = Checkpoints(folder, keep)
    for n in updates:
        checkpoints.save(_trained(n), Progress(frames=80 * n, updates=n, starts=1))
    return checkpoints


def test_restored_state_is_bit_equal(tmp_path):
    state, progress = _saved(tmp_path).restore(small_state())
    assert progress == Progress(frames=240, updates=3, starts=1)
    expected = jax.device_get(_trained(3))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), expected)
    assert jax.tree.structure(state) == jax.tree.structure(expected)


def test_restores_onto_another_number_of_devices(tmp_path):
    learner, state = small_learner(jax.devices()[:4])
    state = learner.place_state(state)
    state, _ = learner.step(state, learner.place_batch(experience(random_batch())))
    Checkpoints(tmp_path, 1).save(state, Progress(updates=1))
    restored, _ = Checkpoints(tmp_path, 1).restore(small_state())
    one, _ = small_learner()
    placed = one.place_state(restored)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(placed), jax.device_get(state))


def test_keeps_the_newest(tmp_path):
    assert _saved(tmp_path, updates=(1, 2, 3), keep=2).versions() == [2, 3]


def _largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:10])


@pytest.mark.parametrize("damage", [_flip, _truncate, lambda path: path.unlink()])
def test_a_damaged_newest_is_reported_and_the_one_before_used(tmp_path, damage, caplog):
    checkpoints = _saved(tmp_path)
    damage(_largest_file(tmp_path / "3"))
    _, progress = checkpoints.restore(small_state())
    assert progress.updates == 2
    assert "3 is damaged" in caplog.text


def test_a_run_that_passes_a_damaged_checkpoint_again_replaces_it(tmp_path):
    checkpoints = _saved(tmp_path)
    _flip(_largest_file(tmp_path / "2"))
    _flip(_largest_file(tmp_path / "3"))
    checkpoints.save(
        _trained(2), Progress(frames=160, updates=2, starts=2, recent=[(1.5, 40), (-2.0, 8)])
    )
    assert checkpoints.versions() == [1, 2]  # 3 lay in the future of this run
    _, progress = checkpoints.restore(small_state())
    assert progress == Progress(frames=160, updates=2, starts=2, recent=[(1.5, 40), (-2.0, 8)])


def test_a_resumed_start_is_remembered(tmp_path):
    """Else a run killed twice at the same place would draw the same random numbers again."""
    checkpoints = _saved(tmp_path)
    state, progress = checkpoints.restore(small_state())
    progress.starts += 1
    checkpoints.save(state, progress)
    assert checkpoints.restore(small_state())[1].starts == 2


def test_nothing_usable_is_an_error_that_names_all(tmp_path):
    checkpoints = _saved(tmp_path, updates=(1, 2))
    for n in (1, 2):
        (tmp_path / str(n) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"(?s)2.*1"):
        checkpoints.restore(small_state())
    with pytest.raises(CheckpointError, match="holds none"):
        Checkpoints(tmp_path / "nowhere", 1).restore(small_state())


def test_a_killed_save_leaves_no_checkpoint_and_does_not_disturb_the_next(tmp_path):
    checkpoints = _saved(tmp_path, updates=(1,))
    partial = tmp_path / "incomplete-2"
    partial.mkdir()
    (partial / "state").write_text("half")
    assert checkpoints.versions() == [1]
    checkpoints.save(_trained(2), Progress(updates=2))
    assert checkpoints.versions() == [1, 2]
    assert not partial.exists()


# What orbax or tensorstore take for a pattern, an escape, an address or no text at all.
_ODD_NAMES = (
    "[2026] proj",
    "[!a]",
    "[",
    "a\\b",
    "a*b?",
    "**",
    "gs:",
    "caf\udce9",
    "~",
    " ä\n日本 ",
)


@pytest.mark.parametrize("name", _ODD_NAMES, ids=ascii)
def test_a_folder_may_have_any_name(tmp_path, name):
    state = small_state()
    Checkpoints(tmp_path / name, 1).save(state, Progress(updates=1))
    restored, _ = Checkpoints(tmp_path / name, 1).restore(small_state())
    jax.tree.map(np.testing.assert_array_equal, restored, jax.device_get(state))


def test_snapshots_may_have_any_name(tmp_path):
    folder = tmp_path / _ODD_NAMES[0]
    folder.mkdir()
    params, snapshots = small_state().inner.params, open_snapshots(folder)
    snapshots.save(Snapshot(params), Progress(updates=3))
    restored, _ = snapshots.load(3, Snapshot(params))
    jax.tree.map(np.testing.assert_array_equal, restored.params, jax.device_get(params))


def test_a_save_that_did_not_write_what_a_restore_needs_fails(tmp_path, monkeypatch):
    """Even the way around such a name leads through one here; orbax itself notices nothing."""
    odd = tmp_path / "[odd]"
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    checkpoints = _saved(tmp_path / "run", updates=(1,))
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoints(odd, 3).save(small_state(), Progress(updates=2))
    assert Checkpoints(odd, 3).versions() == []
    assert list(odd.iterdir()) == []
    assert checkpoints.versions() == [1]


def test_a_whole_checkpoint_that_cannot_be_read_is_passed_over(tmp_path, caplog):
    """As those that older versions wrote into folders with such names."""
    checkpoints = _saved(tmp_path, updates=(1, 2))
    manifest = tmp_path / "2" / "manifest.json"
    manifest.write_text("{}")
    (tmp_path / "2" / "state" / "manifest.ocdbt").unlink()
    assert checkpoints.restore(small_state())[1].updates == 1
    assert "2 is damaged" in caplog.text


def test_the_configuration_of_a_run_is_that_of_its_newest_whole_checkpoint(tmp_path):
    own, folder = tmp_path / "config.yaml", tmp_path / "checkpoints"
    own.write_text("seed: 1\n")
    Checkpoints(folder, 3).save(small_state(), Progress(updates=1))
    assert configuration_of(tmp_path) == own  # an older version's checkpoint has none
    for n in (2, 3):
        Checkpoints(folder, 3, f"seed: {n}\n").save(small_state(), Progress(updates=n))
    assert configuration_of(tmp_path).read_text() == "seed: 3\n"
    (folder / "3" / "config.yaml").write_text("seed: 7\n")
    assert configuration_of(tmp_path).read_text() == "seed: 2\n"
