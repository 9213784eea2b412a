"""A folder of images in the usual layout, split/class/image: Omniglot, miniImageNet, one's own."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Names that each split's folder may have.
SPLITS = {
    "train": ("train", "meta-train"),
    "validation": ("val", "validation", "valid", "meta-val"),
    "test": ("test", "meta-test"),
}
_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")

# By split, the files of each class, in order of their names.
Listing = dict[str, dict[str, list[Path]]]


class BadImages(Exception):
    """A folder, or an image in it, cannot be used; one line names it and says why."""


def listing(folder: Path) -> Listing:
    """The images of a folder, none of which is opened.

    Raises:
        BadImages: it has another layout, an empty split or class, or a class in two splits.
    """
    if not folder.is_dir():
        raise BadImages(f"{folder} is no folder")
    found = {split: _classes(_split(folder, names)) for split, names in SPLITS.items()}
    owner: dict[str, str] = {}
    for split, classes in found.items():
        for name in classes:
            if name in owner:
                raise BadImages(
                    f"{folder}: the class {name} is in {owner[name]} and in {split}; a class must "
                    "be in one split only"
                )
            owner[name] = split
    return found


def _split(folder: Path, names: tuple[str, ...]) -> Path:
    there = [folder / name for name in names if (folder / name).is_dir()]
    if len(there) != 1:
        what = "no folder" if not there else "more than one of the folders"
        raise BadImages(
            f"{folder} has {what} {' or '.join(names)}; images stand in SPLIT/CLASS/IMAGE, with "
            "the splits train, val and test"
        )
    return there[0]


def _classes(split: Path) -> dict[str, list[Path]]:
    classes = {path.name: _images(path) for path in sorted(split.iterdir()) if path.is_dir()}
    if not classes:
        raise BadImages(f"{split} is empty; it must hold a folder of images for each class")
    for name, images in classes.items():
        if not images:
            raise BadImages(f"{split / name} holds no image ({', '.join(_ENDINGS)})")
    return classes


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS)


def load(
    files: Listing, *, side: int | None, colour: bool, skip_damaged: bool, cache: Path | None
) -> tuple[dict[str, list[np.ndarray]], list[Path]]:
    """The images [n, H, W, channels] uint8 of each class of each split, and those left out.

    Args:
        files: by `listing`.
        side: height and width in pixels that each is brought to; None: as they are, all alike.
        colour: three channels, else one.
        skip_damaged: leaves out what cannot be read.
        cache: a folder for what was read, so that the next run need not; None: nowhere.

    Raises:
        BadImages: one is damaged, or they are of unlike sizes.
    """
    kept = None if cache is None else cache / f"{_fingerprint(files, side, colour)}.npz"
    if kept is not None and (known := _cached(kept, files)) is not None:
        return known, []
    damaged: list[Path] = []
    images: dict[str, list[np.ndarray]] = {}
    shape: tuple[Path, tuple[int, ...]] | None = None
    for split, classes in files.items():
        images[split] = []
        for name, paths in classes.items():
            read = []
            for path in paths:
                image = _read(path, side, colour, skip_damaged)
                if image is None:
                    damaged.append(path)
                    continue
                shape = shape or (path, image.shape)
                if image.shape != shape[1]:
                    raise BadImages(
                        f"{path} is of {_size(image.shape)} pixels, {shape[0]} of "
                        f"{_size(shape[1])}; give few_shot.image_size to bring all to one size"
                    )
                read.append(image)
            if not read:
                raise BadImages(f"all images of the class {name} in {split} are damaged")
            images[split].append(np.stack(read))
    if kept is not None and not damaged:
        _keep(kept, images)
    return images, damaged


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _read(path: Path, side: int | None, colour: bool, skip_damaged: bool) -> np.ndarray | None:
    """One image [H, W, channels] uint8; None where it is damaged and may be skipped."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image = image.convert("RGB" if colour else "L")
            if side is not None and image.size != (side, side):
                image = image.resize((side, side), Image.Resampling.LANCZOS)
            pixels = np.asarray(image, np.uint8)
    except Exception as error:  # Pillow's readers raise a dozen kinds
        if skip_damaged:
            return None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImages(
            f"{path} cannot be read ({reason}); mend or remove it, or set "
            "few_shot.skip_damaged=true"
        ) from None
    return pixels if colour else pixels[..., None]


def _fingerprint(files: Listing, side: int | None, colour: bool) -> str:
    """Of all that decides what is read: names, sizes and times of all files."""
    hashed = hashlib.sha256(f"{side} {colour}".encode())
    for path in _paths(files):
        status = path.stat()
        hashed.update(
            f"\n{os.fsdecode(path.absolute())} {status.st_size} {status.st_mtime_ns}".encode(
                errors="surrogateescape"
            )
        )
    return hashed.hexdigest()[:32]


def _paths(files: Mapping[str, Mapping[str, list[Path]]]) -> Iterator[Path]:
    for classes in files.values():
        for paths in classes.values():
            yield from paths


def _cached(file: Path, files: Listing) -> dict[str, list[np.ndarray]] | None:
    """What was kept, if it is there and whole."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            every: Any = iter(archive["images"])
            return {
                split: [np.stack([next(every) for _ in paths]) for paths in classes.values()]
                for split, classes in files.items()
            }
    except Exception:  # none there, or damaged; zip, zlib and NumPy raise a dozen kinds
        return None


def _keep(file: Path, images: dict[str, list[np.ndarray]]) -> None:
    """Keeps what was read; where there is no room, the next run reads it again."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            np.savez(stream, images=np.concatenate([c for of in images.values() for c in of]))
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
