"""A panel of facts beside the picture of a game."""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SCALE = 2
_WIDTH = 300
_MARGIN = 14
_TITLE, _TEXT, _LINE = 20, 15, 22  # pixels


_font = functools.cache(ImageFont.load_default)  # a film has thousands of frames


def beside(picture: np.ndarray, title: str, facts: dict[str, str]) -> np.ndarray:
    """The picture, twice its size, with a panel to its right.

    Args:
        picture: [H, W, 3] uint8.
        title: of the panel.
        facts: what stands in it, a line each.

    Returns:
        [2 max(H, what the text needs), 2 W + 300, 3] uint8, even on both sides.
    """
    height, width = picture.shape[0] * _SCALE, picture.shape[1] * _SCALE
    needed = 2 * _MARGIN + _TITLE + _LINE * (len(facts) + 1)
    canvas = Image.new("RGB", (width + _WIDTH, max(height, needed + needed % 2)), "black")
    big = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
    canvas.paste(big, (0, 0))
    draw = ImageDraw.Draw(canvas)
    left, y = width + _MARGIN, _MARGIN
    draw.text((left, y), title, font=_font(_TITLE), fill="white")
    y += _TITLE + _LINE // 2
    font = _font(_TEXT)
    for name, value in facts.items():
        draw.text((left, y), name, font=font, fill=(170, 170, 170))
        right = width + _WIDTH - _MARGIN
        draw.text((right, y), value, font=font, fill="white", anchor="ra")
        y += _LINE
    return np.asarray(canvas)
