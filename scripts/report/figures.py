"""The look that all figures share: readable in print, in grey and by colour-blind eyes."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Okabe and Ito's colours without yellow, which is too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2, 1, 2, 1, 2)))
MARKERS = "osD^vP*X"
STYLE = {
    **{"font.size": 9, "legend.fontsize": 8, "axes.grid": True, "grid.alpha": 0.3},
    **{"pdf.fonttype": 42, "savefig.dpi": 200},  # 42: text of a PDF stays text
    "text.parse_math": False,  # a game's name may have dollars in it
}
WIDTH = 7.0  # inches: a page's text
LINE_OF_TEXT = 0.165  # inches, of 8 points


class Written(NamedTuple):
    """What a part of a report consists of."""

    figures: list[str]  # stems, in the order in which they should be read
    tables: list[tuple[str, list[dict[str, Any]]]]  # title and rows
    files: list[str]


def pyplot() -> Any:
    """`matplotlib.pyplot`, drawing into files only."""
    # Of a notebook it is a backend that need not be installed here; matplotlib refuses it.
    os.environ["MPLBACKEND"] = "Agg"
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def line_style(index: int) -> dict[str, Any]:
    """Each of the first 35 has a colour and dashes of its own: no figure needs its colours."""
    lines = LINES[(index + index // len(COLOURS)) % len(LINES)]
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": lines, "linewidth": 1.4}


def label_steps(axes: Any, text: str) -> None:
    """Environment steps or frames: 10M."""
    from matplotlib.ticker import EngFormatter

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(text)


def save(figure: Any, stem: Path) -> None:
    """Writes all files of a figure and frees it."""
    for name in files_of([stem.name]):
        figure.savefig(stem.with_name(name))
    pyplot().close(figure)


def span(numbers: Sequence[int]) -> str:
    """Of increasing numbers: 3, or 2 to 3."""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def files_of(stems: Iterable[str]) -> list[str]:
    """Names of the files that figures consist of."""
    return [f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")]


def percent_axis(axis: Any) -> None:
    """Shows shares in percent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0))


def few_ticks(most: int) -> Any:
    """A locator of at most so many ticks."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most)
