"""Tasks of few-shot learning: what they are drawn from, and how."""

import jax
import numpy as np
import pytest
from PIL import Image

from actors.tasks import classes, glyphs, image_folder, sinusoids
from actors.tasks.image_folder import BadImages


def test_sinusoids_are_those_of_maml():
    """Points on one sinusoid each, whose amplitude and phase are found again from its points."""
    sample = sinusoids.make_sample(shots=10, queries=40)
    tasks = jax.jit(jax.vmap(lambda key: sample(key, None)))(
        jax.random.split(jax.random.key(0), 200)
    )
    assert tasks.support.inputs.shape == (200, 10, 1)
    assert tasks.query.labels.shape == (200, 40, 1)
    amplitudes, phases = [], []
    for task in range(200):
        x, y = (
            np.concatenate([np.asarray(part[task, :, 0], np.float64) for part in parts])
            for parts in (
                (tasks.support.inputs, tasks.query.inputs),
                (tasks.support.labels, tasks.query.labels),
            )
        )
        # A sin(x - phase) = A cos(phase) sin(x) - A sin(phase) cos(x)
        waves = np.stack([np.sin(x), -np.cos(x)], axis=1)
        found, *_ = np.linalg.lstsq(waves, y)
        np.testing.assert_allclose(waves @ found, y, atol=1e-5)
        amplitudes.append(np.hypot(*found))
        phases.append(np.arctan2(found[1], found[0]) % (2 * np.pi))
        assert np.abs(x).max() <= 5.0
    for values, low, high in ((amplitudes, 0.1, 5.0), (phases, 0.0, np.pi)):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high + 1e-4
        assert np.mean(values) == pytest.approx((low + high) / 2, rel=0.15)


def coded_classes(counts):
    """Images of one pixel: its class and its number within the class."""
    images = [
        np.stack([np.full((1, 1, 2), (c, n), np.uint8) for n in range(count)])
        for c, count in enumerate(counts)
    ]
    return classes.make_classes(images)


@pytest.mark.ci
def test_a_task_has_different_classes_and_no_image_twice():
    counts = [4, 7, 5, 4, 9, 4]
    sample = classes.make_sample(ways=3, shots=1, queries=3)
    data = coded_classes(counts)
    seen = set()
    draw = jax.jit(jax.vmap(sample, in_axes=(0, None)))
    tasks = draw(jax.random.split(jax.random.key(0), 300), data)
    for task in range(300):
        support, query = (jax.tree.map(lambda x, t=task: np.asarray(x[t]), part) for part in tasks)
        np.testing.assert_array_equal(support.labels, [0, 1, 2])
        assert support.labels.dtype == np.int32
        np.testing.assert_array_equal(query.labels, np.repeat([0, 1, 2], 3))
        of_class = support.inputs[:, 0, 0, 0]
        assert len({*of_class}) == 3
        np.testing.assert_array_equal(query.inputs[:, 0, 0, 0], of_class[query.labels])
        images = [tuple(x[0, 0]) for part in (support, query) for x in part.inputs]
        assert len({*images}) == 12
        seen |= {*images}
    assert len(seen) == sum(counts), "each image of each class comes, and none beside them"


def test_glyphs_are_the_same_each_time_and_in_one_split():
    images = glyphs.glyphs()
    assert [*images] == ["train", "validation", "test"]
    sizes = {split: len(of) for split, of in images.items()}
    assert sum(sizes.values()) > 500
    for split, share in glyphs.SPLITS.items():
        assert sizes[split] == pytest.approx(share * sum(sizes.values()), abs=1)
    every = np.stack([image for of in images.values() for image in of])
    assert every.shape[1:] == (20, 28, 28, 1)
    assert every.dtype == np.uint8
    ink = (every > 64).mean(axis=(2, 3, 4))
    assert ink.min() > 0.0, "no picture is empty"
    assert ink.max() < 0.9
    # A class is nearer to its own mean than to the means of others: it can be recognised.
    random = np.random.default_rng(0)
    right = []
    for _ in range(50):
        five = every[random.choice(len(every), 5, replace=False)].reshape(5, 20, -1) / 255.0
        means = five[:, :10].mean(axis=1)
        distances = ((five[:, 10:, None] - means[None, None]) ** 2).sum(axis=-1)
        right.append((distances.argmin(axis=-1) == np.arange(5)[:, None]).mean())
    assert 0.6 < np.mean(right) < 0.999
    again = glyphs.glyphs()
    for split in images:
        np.testing.assert_array_equal(images[split], again[split])


def test_characters_that_look_alike_are_one_class():
    """Latin, Greek and Cyrillic A, of which fonts have one picture; and what has no ink is none."""
    fonts = glyphs._fonts()
    font, _ = fonts["DejaVuSans"]
    pictures = [glyphs._plain(font, character) for character in "A\u0391B\u0410\u0020Q"]
    assert [*glyphs._unlike(pictures)] == [0, 2, 5]


def write_images(folder, counts, size=(20, 20)):
    """split/class/image; colours that say which is which."""
    for split, classes_ in counts.items():
        for c, count in enumerate(classes_):
            of_class = folder / split / f"{split}-{c}"
            of_class.mkdir(parents=True)
            for n in range(count):
                picture = Image.new("RGB", size, (10 * c, 5 * n, 200))
                picture.save(of_class / f"{n}.png")


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images", {"train": [3, 2], "val": [2, 2], "test": [2, 2, 2]})
    return tmp_path / "images"


def read(folder, **options):
    choice = {"side": 16, "colour": True, "skip_damaged": False, "cache": None, **options}
    return image_folder.load(image_folder.listing(folder), **choice)


def test_a_folder_is_read_resized_and_cached(tmp_path, folder):
    cache = tmp_path / "cache"
    images, damaged = read(folder, cache=cache)
    assert damaged == []
    assert {split: [len(c) for c in of] for split, of in images.items()} == {
        "train": [3, 2],
        "validation": [2, 2],
        "test": [2, 2, 2],
    }
    assert images["train"][1].shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(images["train"][1][1, 8, 8], [10, 5, 200])
    (kept,) = cache.iterdir()
    before = kept.stat().st_mtime_ns
    again, _ = read(folder, cache=cache)
    assert kept.stat().st_mtime_ns == before
    jax.tree.map(np.testing.assert_array_equal, images, again)
    # What was kept is not taken for other pictures, nor for another size.
    Image.new("RGB", (20, 20), (99, 99, 99)).save(folder / "train" / "train-1" / "1.png")
    changed, _ = read(folder, cache=cache)
    np.testing.assert_array_equal(changed["train"][1][1, 8, 8], [99, 99, 99])
    grey, _ = read(folder, cache=cache, colour=False, side=None)
    assert grey["test"][0].shape == (2, 20, 20, 1)
    kept.write_bytes(kept.read_bytes()[:100])
    jax.tree.map(np.testing.assert_array_equal, changed, read(folder, cache=cache)[0])


def test_an_unusable_folder_is_refused_in_a_line(tmp_path, folder):
    def refused(*words, **options):
        with pytest.raises(BadImages) as error:
            read(folder, **options)
        assert "\n" not in str(error.value)
        for word in words:
            assert word in str(error.value)

    odd = folder / "train" / "train-0" / "2.png"
    Image.new("RGB", (30, 20)).save(odd)
    refused(str(odd), "30 x 20", "20 x 20", "image_size", side=None)
    assert read(folder)[0]["train"][0].shape == (3, 16, 16, 3)
    odd.write_bytes(odd.read_bytes()[:45])
    refused(str(odd), "skip_damaged")
    images, damaged = read(folder, skip_damaged=True)
    assert damaged == [odd]
    assert len(images["train"][0]) == 2
    twice = folder / "test" / "val-1"
    twice.mkdir()
    (twice / "0.png").write_bytes((folder / "val" / "val-1" / "0.png").read_bytes())
    refused("val-1", "validation", "test")
    (twice / "0.png").rename(folder / "test" / "test-0" / "9.png")
    refused(str(twice), "no image")
    twice.rmdir()
    for images in (folder / "val").iterdir():
        images.rename(folder / "train" / images.name)
    refused(str(folder / "val"), "empty")
    (folder / "val").rmdir()
    refused("val", "SPLIT/CLASS/IMAGE")
    with pytest.raises(BadImages, match="no folder"):
        image_folder.listing(tmp_path / "nowhere")
