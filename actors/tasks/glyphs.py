"""Glyphs: characters of the fonts that come with matplotlib, a set like Omniglot's.

A class is a character; its examples are the styles of several families, each a little turned,
sheared, scaled and moved. Nothing is downloaded: DejaVu, STIX and Computer Modern stand in the
package. They are drawn when a run starts, which takes seconds, always from the same random numbers.
"""

import functools
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

EXAMPLES = 20  # of a class, as in Omniglot
SIDE = 28  # pixels
SPLITS = {"train": 0.64, "validation": 0.16, "test": 0.20}  # shares of the classes
_SEED = 20_211  # of which class is in which split, and of all changes of shape
_STYLES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    "DejaVuSansMono-BoldOblique",
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)
_ASCII_ONLY = "cm"  # families whose other codes are those of TeX
_FEWEST_STYLES = 12  # of a character that is a class
_LARGE = 40  # pixels of the font that is drawn and then made small
_INK = 20  # pixels of the longer side of a character
# Two characters whose plain pictures are so alike (cosine) are one class: Latin and Greek A, say.
_ALIKE = 0.92
_KINDS = ("Lu", "Ll", "Lo", "Lt", "Nd", "Nl", "No", "Sm", "So", "Sc")  # letters, numbers, symbols
_BOXES = range(0x2500, 0x25A0)  # lines and blocks, of which each is a part of another


def glyphs() -> dict[str, list[np.ndarray]]:
    """Images [20, 28, 28, 1] uint8, ink bright, of each class of each split."""
    fonts = _fonts()
    styles: dict[str, list[str]] = {}
    for name, (_, characters) in fonts.items():
        for character in characters:
            styles.setdefault(character, []).append(name)
    candidates = sorted(c for c, names in styles.items() if len(names) >= _FEWEST_STYLES)
    plain = [_plain(fonts[styles[c][0]][0], c) for c in candidates]
    classes = [candidates[i] for i in _unlike(plain)]
    random = np.random.default_rng(_SEED)
    order = random.permutation(len(classes))
    images: dict[str, list[np.ndarray]] = {}
    for split, members in zip(SPLITS, np.split(order, _ends(len(order))), strict=True):
        images[split] = [_examples(fonts, styles, classes[i], random) for i in members]
    return images


def _ends(count: int) -> list[int]:
    """Where each split but the last one ends."""
    return [round(count * share) for share in np.cumsum([*SPLITS.values()])[:-1]]


def _fonts() -> dict[str, tuple[Any, list[str]]]:
    """By style, the font and the characters of it that may be classes."""
    from matplotlib import ft2font, get_data_path
    from PIL import ImageFont

    folder = Path(get_data_path()) / "fonts" / "ttf"
    fonts = {}
    for name in _STYLES:
        file = str(folder / f"{name}.ttf")
        codes = ft2font.FT2Font(file).get_charmap()
        most = 0x80 if name.startswith(_ASCII_ONLY) else 0x10000
        known = [chr(code) for code in codes if 0x20 < code < most and _may_be_class(chr(code))]
        fonts[name] = ImageFont.truetype(file, _LARGE), known
    return fonts


@functools.cache  # of each style anew
def _may_be_class(character: str) -> bool:
    """Whether it is a shape of its own, and no letter with an accent."""
    kind, accented = unicodedata.category(character), unicodedata.decomposition(character)
    return kind in _KINDS and not accented and ord(character) not in _BOXES


def _plain(font: Any, character: str) -> np.ndarray:
    """[20, 20]: the ink of a character, stretched to fill a square."""
    from PIL import Image

    ink = _ink(font, character)
    return np.asarray(ink.resize((_INK, _INK), Image.Resampling.BILINEAR), np.float32)


def _ink(font: Any, character: str) -> Any:
    """A picture of a character, cut to where there is ink; one pixel where there is none."""
    from PIL import Image

    mask = font.getmask(character, mode="L")
    return (
        Image.frombytes("L", mask.size, bytes(mask)) if all(mask.size) else Image.new("L", (1, 1))
    )


def _unlike(pictures: list[np.ndarray]) -> Iterator[int]:
    """Indices of those that are like none before them, empty ones left out."""
    flat = np.stack([picture.ravel() for picture in pictures])
    norms = np.linalg.norm(flat, axis=1)
    directions = flat / np.maximum(norms, 1e-9)[:, None]
    kept: list[int] = []
    for index in range(len(pictures)):
        if norms[index] == 0.0:
            continue
        if not kept or (directions[kept] @ directions[index]).max() < _ALIKE:
            kept.append(index)
            yield index


def _examples(
    fonts: dict[str, tuple[Any, list[str]]],
    styles: dict[str, list[str]],
    character: str,
    random: np.random.Generator,
) -> np.ndarray:
    """[20, 28, 28, 1]: every style once, then again, each changed a little."""
    names = random.permutation(styles[character])
    drawn = [_ink(fonts[name][0], character) for name in names[:EXAMPLES]]
    inks = [drawn[i % len(drawn)] for i in range(EXAMPLES)]
    draws = random.uniform(-1.0, 1.0, (EXAMPLES, 5))
    matrices = _back(np.asarray([ink.size for ink in inks], np.float64), draws)
    return np.stack([_changed(*pair) for pair in zip(inks, matrices, strict=True)])[..., None]


def _back(sizes: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """[N, 2, 3]: from a pixel of each small picture back to the large one, width first.

    Args:
        sizes: [N, 2] of the large pictures.
        draws: [N, 5] in [-1, 1]: a turn by up to 10 degrees, a shear, a scale and a move.
    """
    angle, shear = np.deg2rad(10.0 * draws[:, 0]), 0.15 * draws[:, 1]
    scale = (0.975 + 0.125 * draws[:, 2]) * _INK / sizes.max(axis=1)
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.stack([cos, shear * cos - sin, sin, shear * sin + cos], axis=1).reshape(-1, 2, 2)
    back = np.linalg.inv(scale[:, None, None] * turned)
    centre = SIDE / 2 + 1.5 * draws[:, 3:]
    offset = sizes / 2 - np.einsum("nij,nj->ni", back, centre)
    return np.concatenate([back, offset[..., None]], axis=2)


def _changed(ink: Any, back: np.ndarray) -> np.ndarray:
    """[28, 28]: what a matrix of `_back` makes of a picture."""
    from PIL import Image

    # The large picture is smoothed first: one pixel of the small one stands for several of it.
    factor = max(1, round(float(np.abs(np.linalg.det(back[:, :2])) ** 0.5)))
    reduced = ink.reduce(factor) if factor > 1 else ink
    matrix = (back / factor).ravel().tolist()
    small = reduced.transform(
        (SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.frombuffer(small.tobytes(), np.uint8).reshape(SIDE, SIDE)
