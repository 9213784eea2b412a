"""One page that shows a whole report, with everything in it."""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scripts.report.figures import pyplot
from scripts.report.tables import BYTES_OF_PATHS, write_tables

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid #ccc;
  padding-top: 1rem; }
h3 { font-size: 1rem; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th { cursor: pointer; } th, td { text-align: left; } .number { text-align: right; }
th[data-down]::after { content: " \\25BE"; } th[data-up]::after { content: " \\25B4"; }
td.number { white-space: nowrap; }
th, td { padding: .2rem .5rem; border-bottom: 1px solid #ddd; }
.shared { font-size: 13px; color: #555; } .wide { overflow-x: auto; }
img { max-width: 100%; height: auto; }
.notes { background: #fff6df; border-left: 4px solid #e69f00; padding: .5rem 1rem; }
figure { margin: 1.5rem 0; } figcaption { font-size: 13px; color: #555; }
dl { display: grid; grid-template-columns: max-content auto; gap: 0 1rem; font-size: 13px; }
dd { margin: 0; }
details { border-bottom: 1px solid #ddd; } summary { cursor: pointer; padding: .3rem 0; }
"""
STORY = "run_"  # how files and anchors of stories begin
_DOTS_OF_A_STORY = 130  # an inch: its panels are many and small, and a page may have dozens
_LONGEST_FILE = 60  # characters, of at most four bytes each; a name has 255
_MOST_SIDE_BY_SIDE = 14  # columns of short words, beside the first one
# Where a long name may be broken, but no number.
_BREAK = re.compile(r"([_=+/]|[.,](?=[A-Za-z]))")
_MOST_COLUMNS = 10  # that fit into a window of 1,280 pixels whatever stands in them
# A click on a column's head sorts by its numbers or texts, a second one the other way round.
_SORT = """
document.querySelectorAll("th").forEach(head => head.onclick = () => {
  const table = head.closest("table"), column = head.cellIndex, down = !("down" in head.dataset);
  const number = text => parseFloat(text.replaceAll(",", ""));
  const rows = [...table.rows].slice(1).sort((a, b) => {
    const [x, y] = [a, b].map(row => row.cells[column].textContent);
    const [m, n] = [x, y].map(number);
    if (isNaN(m) && isNaN(n)) return down ? x.localeCompare(y) : y.localeCompare(x);
    if (isNaN(m) || isNaN(n)) return isNaN(m) - isNaN(n);
    return down ? n - m : m - n;
  });
  table.querySelectorAll("th").forEach(other => {
    delete other.dataset.down; delete other.dataset.up; });
  head.dataset[down ? "down" : "up"] = "";
  table.tBodies[0].append(...rows);
});
"""


class Story(NamedTuple):
    """What one run did, to be unfolded."""

    title: str
    facts: dict[str, Any]
    figure: str | None  # name of a PNG file without its ending


class Section:
    """A part of a report: its tables and figures, written into a folder as they come."""

    def __init__(self, folder: Path, title: str, suffix: str = "") -> None:
        self.title = title
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self.tables: list[tuple[str, list[dict[str, Any]]]] = []  # with their titles
        self.figures: list[str] = []  # names of PNG files without their endings
        self.stories: list[Story] = []
        self.files: list[str] = []  # all that were written
        self._folder, self._suffix = folder, suffix

    def table(self, title: str, rows: list[dict[str, Any]], name: str) -> None:
        """Writes and shows a table; nothing if it has no rows. A row may lack columns of others."""
        columns = dict.fromkeys(column for row in rows for column in row)
        if columns:
            whole = [{column: row.get(column) for column in columns} for row in rows]
            self.files += write_tables(whole, self._folder, f"{name}{self._suffix}")
            self.tables.append((title, whole))

    def figure(self, figure: Any, name: str) -> None:
        """Writes, shows and frees a figure; nothing if there is none."""
        if figure is None:
            return
        stem = f"{name}{self._suffix}"
        for kind in ("png", "pdf"):
            figure.savefig(self._folder / f"{stem}.{kind}")
            self.files.append(f"{stem}.{kind}")
        pyplot().close(figure)
        self.figures.append(stem)

    def story(self, title: str, facts: dict[str, Any], figure: Any, run: str) -> None:
        """Writes, shows and frees the figure, if there is one, of one run's story.

        Args:
            title: of the story.
            facts: beside the figure.
            figure: any, or None.
            run: its name, which others may have as well.
        """
        stem = None
        if figure is not None:
            stem = f"{STORY}{len(self.stories) + 1}_{file_name(run)}"
            figure.savefig(self._folder / f"{stem}.png", dpi=_DOTS_OF_A_STORY)
            self.files.append(f"{stem}.png")
            pyplot().close(figure)
        self.stories.append(Story(title, facts, stem))


def file_name(text: str) -> str:
    """A name as a part of a file's; Gymnasium's games have slashes and colons.

    In ASCII, since in an ASCII locale no other name of a file can be written.
    """
    fits = (c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in text)
    return "".join(fits)[:_LONGEST_FILE]


def write_page(folder: Path, title: str, sections: Sequence[Section]) -> str:
    """Writes index.html, which needs no other file, and returns its name."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        *(_section(folder, section) for section in sections),
        f"<script>{_SORT}</script></body></html>\n",
    ]
    page = "\n".join(parts)
    (folder / "index.html").write_text(page, encoding="utf-8", errors=BYTES_OF_PATHS)
    return "index.html"


def _section(folder: Path, section: Section) -> str:
    parts = [f"<section><h2>{html.escape(section.title)}</h2>"]
    if section.notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in section.notes)
        parts.append(f'<div class="notes"><ul>{items}</ul></div>')
    parts += [_figure(folder, stem) for stem in section.figures[:1]]  # the curve is looked at first
    for title, rows in section.tables:
        parts.append(f"<h3>{html.escape(title)}</h3>{_table(rows)}")
    parts += [_figure(folder, stem) for stem in section.figures[1:]]
    if section.facts:
        parts.append(f"<h3>Protocol</h3>{_facts(section.facts)}")
    unfolded = " open" if len(section.stories) == 1 else ""
    for number, (title, facts, stem) in enumerate(section.stories, start=1):
        parts.append(f'<details id="{STORY}{number}"{unfolded}><summary>{html.escape(title)}')
        parts.append(f"</summary>{_facts(facts)}")
        if stem is not None:
            parts.append(_figure(folder, stem, title))
        parts.append("</details>")
    return "\n".join([*parts, "</section>"])


def _facts(facts: dict[str, Any]) -> str:
    told = "".join(
        f"<dt>{html.escape(str(key))}</dt><dd>{html.escape(str(value))}</dd>"
        for key, value in facts.items()
    )
    return f"<dl>{told}</dl>"


def _figure(folder: Path, stem: str, title: str | None = None) -> str:
    picture = base64.b64encode((folder / f"{stem}.png").read_bytes()).decode()
    caption = html.escape(title or stem.replace("_", " "))
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{picture}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(rows: list[dict[str, Any]]) -> str:
    """Columns in which something stands; of many, those in which all rows are equal stand above.

    Of too many for a page's width some stand below the others, each part with the first column.
    """
    known = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    shared = [key for key in known if all(row[key] == rows[0][key] for row in rows)]
    if len(rows) == 1 or len(known) <= _MOST_COLUMNS:
        shared = []
    above = "; ".join(f"{_text(key)}: {_text(rows[0][key])}" for key in shared)
    known = [key for key in known if key not in shared]
    if not known and not shared:
        return ""
    first, *others = known or shared[:1]
    parts = -(-len(others) // _MOST_SIDE_BY_SIDE) or 1
    each = -(-len(others) // parts)
    tables = "".join(_part(rows, [first, *others[n * each :][:each]]) for n in range(parts))
    return f'<p class="shared">In all rows: {above}</p>{tables}' if above else tables


def _part(rows: list[dict[str, Any]], columns: Sequence[str]) -> str:
    def kind(*values: Any) -> str:
        known = [value for value in values if value is not None]
        numbers = known and all(isinstance(value, int | float) for value in known)
        return ' class="number"' if numbers else ""

    of_columns = {key: kind(*(row[key] for row in rows)) for key in columns}
    head = "".join(f"<th{of_columns[key]}>{_text(key)}</th>" for key in columns)
    cells = (
        "".join(f"<td{of_columns[key] or kind(row[key])}>{_text(row[key])}</td>" for key in columns)
        for row in rows
    )
    body = "".join(f"<tr>{of_row}</tr>" for of_row in cells)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _text(value: Any) -> str:
    """With thousands separators, and with places where lists may be broken."""
    if value is None:
        return "-"
    if isinstance(value, int | float):
        return f"{value:,}"
    return _BREAK.sub(r"\1<wbr>", html.escape(str(value)))
