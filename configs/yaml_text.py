"""YAML as people mean it: a core of YAML 1.2, no key twice, and bounds on what it may stand for.

Only what a configuration needs is read: text, numbers, true and false, null, lists and groups.
Decimal numbers may have leading zeros (010 is ten) and underscores (1_000_000); 2e8 and 1e-4 are
numbers, 0x10 and 0o10 too. `yes`, `off`, 1:00:00 and 2024-01-01, which YAML 1.1 takes for truth
values, sexagesimal numbers and dates, are text.
"""

# pyright: basic
# Strict is for what has types, which PyYAML's loader has only in part.

import re
from typing import Any, cast

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

# Far more than any configuration needs, and little enough to be read in a moment.
MOST_CHARACTERS = 200_000
_MOST_LEVELS = 20
_MOST_VALUES = 20_000  # aliases written out
_TOO_MANY = f"it stands for more than {_MOST_VALUES:,} values"
_TOO_DEEP = f"nested more than {_MOST_LEVELS} levels deep"


class NotYaml(ValueError):
    """A text is no YAML; one line says where and why."""


class Refused(NotYaml):
    """A text is YAML, but says something twice or stands for too much."""


def parse(text: str) -> Any:
    """The plain data that a YAML text stands for; no two parts of it are the same object.

    Raises:
        NotYaml: it cannot be read.
    """
    if len(text) > MOST_CHARACTERS:
        raise Refused(f"it is longer than {MOST_CHARACTERS:,} characters")
    try:
        return _written_out(yaml.load(text, _Loader))  # type: ignore[arg-type]
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or "cannot be parsed"
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        kind = Refused if isinstance(error, _NotAllowed) else NotYaml
        raise kind(f"{where}{problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYaml(f"line {line}: a character that YAML does not allow") from None


def is_number(text: str) -> bool:
    """Whether `parse` makes a decimal number of it."""
    return any(
        re.fullmatch(pattern, text.strip()) for tag, pattern, _ in _IMPLICIT if tag in _NUMBERS
    )


class _NotAllowed(yaml.MarkedYAMLError):
    """What YAML allows and a configuration does not."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _Loader(Reader, Scanner, Parser, Composer, SafeConstructor, BaseResolver):
    """PyYAML's, with the implicit types and tags of this file alone."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        BaseResolver.__init__(self)
        self._level = self._nodes = 0
        self._sizes: dict[int, tuple[int, int]] = {}  # of whole nodes: values and levels

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As PyYAML's; refuses what is nested too deep or, with its aliases, too much."""
        event: Any = self.peek_event()
        if self._level == _MOST_LEVELS:
            raise _NotAllowed(_TOO_DEEP, event.start_mark)
        if self._nodes == _MOST_VALUES:
            raise _NotAllowed(_TOO_MANY, event.start_mark)
        self._level, self._nodes = self._level + 1, self._nodes + 1
        node: Any = super().compose_node(parent, index)
        self._level -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._sizes[id(node)] = self._size(node)
        elif id(node) not in self._sizes:
            raise _NotAllowed(f"*{event.anchor} is a part of itself", event.start_mark)
        return node

    def _size(self, node: Any) -> tuple[int, int]:
        parts: list[Any] = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        sizes = [self._sizes[id(part)] for part in parts]
        values = 1 + sum(values for values, _ in sizes)
        levels = 1 + max((levels for _, levels in sizes), default=0)
        if values > _MOST_VALUES:
            raise _NotAllowed(_TOO_MANY, node.start_mark)
        if levels > _MOST_LEVELS:
            raise _NotAllowed(_TOO_DEEP, node.start_mark)
        return values, levels

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """As PyYAML's; what a tag cannot take is told with its line."""
        try:
            value: Any = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()
            return value
        except ValueError as error:  # !!int x, a number of 5,000 digits, or half a character
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error

    def compose_mapping_node(self, anchor: Any) -> Any:
        """As PyYAML's; refuses a key that stands twice, of which the first would be lost."""
        node: Any = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = (str(key.tag), str(key.value)), int(key.start_mark.line) + 1
                if name in lines:
                    raise _NotAllowed(
                        f"{key.value!r} stands twice, first in line {lines[name]}; keep one",
                        key.start_mark,
                    )
                lines[name] = line
        return node


def _integer(loader: Any, node: Any) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    return int(text, base)


def _real(loader: Any, node: Any) -> float:
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _truth(loader: Any, node: Any) -> bool:
    text = str(loader.construct_scalar(node)).lower()
    if text not in ("true", "false"):
        raise ValueError(f"{text} is not true or false")
    return text == "true"


_Loader.yaml_constructors = {
    f"tag:yaml.org,2002:{tag}": constructor
    for tag, constructor in (
        ("null", SafeConstructor.construct_yaml_null),
        ("bool", _truth),
        ("int", _integer),
        ("float", _real),
        ("str", SafeConstructor.construct_yaml_str),
        ("seq", SafeConstructor.construct_yaml_seq),
        ("map", SafeConstructor.construct_yaml_map),
    )
} | {None: SafeConstructor.construct_undefined}

_NUMBERS = ("int", "float")
_DIGITS = r"[0-9](_?[0-9])*"
_IMPLICIT = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", rf"[-+]?{_DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        rf"[-+]?({_DIGITS}\.?|{_DIGITS}\.{_DIGITS}|\.{_DIGITS})([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", "<<", ["<"]),
)


class _Dumper(yaml.SafeDumper):
    """Puts in quotes also what only this file takes for a number, like the text 1e5."""


for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in _IMPLICIT:
        _class.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
        )


def dump(content: Any) -> str:
    """Plain data as a text that `parse` reads as the same."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


def _written_out(value: Any) -> Any:
    """A copy in which what an alias stands for is an object of its own.

    Else a change of one of its places, by KEY=VALUE, would be one of all.
    """
    if isinstance(value, dict):
        return {key: _written_out(part) for key, part in cast(dict[Any, Any], value).items()}
    if isinstance(value, list):
        return [_written_out(part) for part in cast(list[Any], value)]
    return value
