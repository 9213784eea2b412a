"""Tables of reports hold texts of strangers, which neither a page nor a spreadsheet may obey."""

import csv
import html
import re

from scripts.report.html import Section, write_page
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


def test_columns_of_a_page_are_those_that_tell_rows_apart(tmp_path):
    section = Section(tmp_path, "title")
    same = {f"same {i}": 1_000 + i for i in range(12)} | {"<b>": "<i>"}
    rows = [
        {"run": name, "empty": None, **same, "score": 1234.5 * i} for i, name in enumerate("ab")
    ]
    section.table("of two", rows, "two")
    section.table("of one", rows[:1], "one")
    write_page(tmp_path, "page", [section])
    page = (tmp_path / "index.html").read_text()
    of_two, of_one = page.split("<h3>")[1:3]
    assert re.findall(r"<th[^>]*>(.*?)</th>", of_two) == ["run", "score"]
    assert "In all rows: same 0: 1,000; same 1: 1,001; " in of_two
    assert ">1,234.5</td>" in of_two
    assert re.findall(r"<th[^>]*>(.*?)</th>", of_one) == ["run", *map(html.escape, same), "score"]
    assert "; &lt;b&gt;: &lt;i&gt;</p>" in of_two
    assert (tmp_path / "two.csv").read_text().startswith("run,empty,same 0,")  # as it was


def test_too_many_columns_for_a_page_stand_below_one_another(tmp_path):
    section = Section(tmp_path, "many")
    columns = {f"agent_{n} (learning_rate=0.{n})": n for n in range(1, 31)}
    others = {name: n + 1 for name, n in columns.items()}
    section.table("", [{"key": "a.b_c", **columns}, {"key": "d", **others}], "table")
    write_page(tmp_path, "many", [section])
    page = (tmp_path / "index.html").read_text()
    heads = re.findall(r"<table><tr>(.*?)</tr>", page)
    assert [head.count("<th") for head in heads] == [11, 11, 11]
    assert all(head.startswith("<th>key</th>") for head in heads)
    assert "a.<wbr>b_<wbr>c" in heads[0] + page
    assert "learning_<wbr>rate=<wbr>0.1)" in heads[0]  # a number stays whole
