"""Tables of reports hold texts of strangers, which neither a page nor a spreadsheet may obey."""

import csv
import re

from scripts.report.tables import write_tables

HOSTILE = ["<script>alert(1)</script>", '=cmd("x")', "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "a|b\nc"]
HOSTILE += ["[link](javascript:1)", "![x](http://x)", "\ud800", "\x1b[2J"]


def test_texts_are_shown_as_they_are(tmp_path):
    rows = [{"run": text, "<b>": -1.5} for text in HOSTILE]
    assert write_tables(rows, tmp_path, "table") == ["table.md", "table.csv"]
    markdown = (tmp_path / "table.md").read_text().splitlines()
    assert len(markdown) == 2 + len(rows)
    for line in markdown:
        assert "<" not in line
        assert not re.search(r"(?<!\\)\]\(", line)
        assert line.replace("\\|", "").count("|") == 3
    with (tmp_path / "table.csv").open() as file:
        found = [row["run"] for row in csv.DictReader(file)]
    assert found[0] == HOSTILE[0]
    assert [text[:2] for text in found[1:6]] == ["'=", "'+", "'-", "'@", "'\\"]


def test_numbers_stay_numbers(tmp_path):
    numbers = ["-1.5", "-12.00 +- 3.00", "-3.2%", "+4", "-1e-05", "-20.1 (-21.0 to -19.0)"]
    rows = [{"value": -1.5, "text": text} for text in numbers]
    write_tables(rows, tmp_path, "table")
    with (tmp_path / "table.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["text"] for row in found] == numbers
    assert {row["value"] for row in found} == {"-1.5"}
    assert "| -1.5 | -12.00 +- 3.00 |" in (tmp_path / "table.md").read_text()
