"""Tables of reports: the same rows as Markdown and as CSV."""

import csv
import html
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from learner.reading import printable

# Of names of folders that are no text, as any but ASCII ones are in an ASCII locale.
BYTES_OF_PATHS = "surrogateescape"
_LONGEST = 1_000  # characters of a cell
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what makes a spreadsheet calculate a cell
# A number, and what our tables put behind one: its error, its interval.
_NUMBERS = re.compile(
    r"[+-]?{0}( \+- {0}| to {0}| \({0} to {0}\))*".format(r"-?[\d.,]+(e[+-]?\d+)?%?")
)
_MARKDOWN = re.compile(r"([\\`*\[\]|]|(?<!\w)_|_(?!\w))")  # an underscore within a word is one


def write_tables(rows: list[dict[str, Any]], folder: Path, name: str) -> list[str]:
    """Writes both files and returns their names; an empty cell is a dash in Markdown.

    Texts may come from a stranger's run folder: neither a page nor a spreadsheet obeys them.
    """
    text = markdown(rows)
    (folder / f"{name}.md").write_text(text, encoding="utf-8", errors=BYTES_OF_PATHS)
    with (folder / f"{name}.csv").open(
        "w", newline="", encoding="utf-8", errors=BYTES_OF_PATHS
    ) as file:
        writer = csv.writer(file)
        writer.writerow([_csv_cell(column) for column in rows[0]])
        writer.writerows([_csv_cell(cell) for cell in row.values()] for row in rows)
    return [f"{name}.md", f"{name}.csv"]


def _csv_cell(value: Any) -> Any:
    """With an apostrophe before what would be a formula; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = printable(value, _LONGEST)
    formula = value.startswith(_FORMULA) and not _NUMBERS.fullmatch(value)
    return f"'{text}" if formula else text


def _markdown_cell(value: Any) -> str:
    if value is None:
        return "-"
    text = html.escape(printable(str(value), _LONGEST), quote=False)
    return _MARKDOWN.sub(r"\\\1", text) if isinstance(value, str) else text


def markdown(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    columns = list(rows[0])
    lines = [f"| {' | '.join(map(_markdown_cell, columns))} |", f"|{' --- |' * len(columns)}"]
    for row in rows:
        cells = [_markdown_cell(row[name]) for name in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rounded(value: Any, digits: int = 2) -> float | None:
    """A number as tables show it; None where it is unknown."""
    return round(float(value), digits) if value is not None and math.isfinite(value) else None


def percent(value: Any) -> str:
    """A share, as tables and figures show it."""
    return f"{100 * float(value):.1f}%"


def spread(values: np.ndarray) -> float | None:
    """Standard deviation over runs [S], of several."""
    return rounded(values.std(ddof=1)) if len(values) > 1 else None
