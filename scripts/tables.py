"""Tables of reports: the same rows as Markdown and as CSV."""

import csv
from pathlib import Path
from typing import Any

# Of names of folders that are no text, as any but ASCII ones are in an ASCII locale.
BYTES_OF_PATHS = "surrogateescape"


def write_tables(rows: list[dict[str, Any]], folder: Path, name: str) -> list[str]:
    """Writes both files and returns their names; an empty cell is a dash in Markdown."""
    text = markdown(rows)
    (folder / f"{name}.md").write_text(text, encoding="utf-8", errors=BYTES_OF_PATHS)
    with (folder / f"{name}.csv").open(
        "w", newline="", encoding="utf-8", errors=BYTES_OF_PATHS
    ) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return [f"{name}.md", f"{name}.csv"]


def markdown(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row in rows:
        cells = ["-" if row[name] is None else str(row[name]) for name in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
