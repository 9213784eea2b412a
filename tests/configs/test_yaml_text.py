"""YAML as people mean it; what says something twice, or stands for too much, is refused."""

import time

import pytest

from configs.yaml_text import NotYaml, Refused, dump, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("008", 8),
        ("-007", -7),
        ("1_000_000", 1_000_000),
        ("0x1F", 31),
        ("0o17", 15),
        ("2e8", 2e8),
        ("1e-4", 1e-4),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", float("-inf")),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("1:00:00", "1:00:00"),
        ("2024-01-01", "2024-01-01"),
        ("yes", "yes"),
        ("off", "off"),
        ("1__0", "1__0"),
        ("{a: &x {k: 1}, b: {<<: *x, j: 2}}", {"a": {"k": 1}, "b": {"k": 1, "j": 2}}),
    ],
)
def test_what_a_text_stands_for(text, value):
    read = parse(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: 'a' stands twice, first in line 1"),
        ("a:\n  b: {c: 1,\n  c: 2}", "line 3, column 3: 'c' stands twice, first in line 2"),
        ("[" * 3_000, "nested more than 20 levels deep"),
        ("{a: " * 3_000, "nested more than 20 levels deep"),
        ("- " * 3_000, "nested more than 20 levels deep"),
        ("x: &a [*a]", "line 1, column 8: *a is a part of itself"),
        ("a: 1\n" * 100_000, "longer than 200,000 characters"),
        (f"[{'1,' * 50_000}]", "more than 20,000 values"),
        # A chain of aliases: no text is nested, what it stands for is.
        ("\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 99))]), "deep"),
    ],
)
def test_what_is_refused(text, part):
    started = time.monotonic()
    with pytest.raises(Refused) as caught:
        parse(text)
    assert part in str(caught.value)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(("first", "each"), [("[x]", "[{}]"), ("{x: 1}", "{{<<: [{}]}}")])
def test_a_bomb_of_aliases_ends_at_once(first, each):
    rows = [f"a{i}: &a{i} " + each.format(",".join([f"*a{i - 1}"] * 9)) for i in range(1, 13)]
    with pytest.raises(
        Refused, match=r"line [56], column \d+: it stands for more than 20,000 values"
    ):
        parse("\n".join([f"a0: &a0 {first}", *rows]))


@pytest.mark.parametrize(
    "text",
    [
        *("!!bool maybe", "!!int x", "!!float 1:60", "!!timestamp x", "!!binary aGk=", "!mine x"),
        *(
            "!!python/object/apply:os.system [ls]",
            "? [1]\n: 2",
            "9" * 5_000,
            "*a",
            "@",
            "--- a\n--- b",
        ),
    ],
)
def test_what_is_no_plain_data_is_told_with_its_line(text):
    with pytest.raises(NotYaml, match=r"line [12], column 1|line 1, column 3"):
        parse(text)


def test_what_an_alias_stands_for_is_an_object_of_its_own():
    read = parse("a: &x {k: [1]}\nb: *x")
    read["a"]["k"].append(2)
    assert read["b"] == {"k": [1]}


def test_dumped_text_is_read_as_the_same():
    values = ["1e5", "010", "0o7", "1:00", "yes", "<<", "null", 1e-05, 1e30, 3, None, True, [], {}]
    values += ["\u65e5\u672c", "\U0001f600", "a\nb", "\x1b[0m", "[x] y", "#", "", " "]
    assert parse(dump({"values": values})) == {"values": values}
