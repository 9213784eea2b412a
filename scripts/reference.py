"""Writes docs/configuration.md from the schema: `uv run python -m scripts.reference`."""

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from configs.names import TABLES
from configs.schema import Config
from scripts.resuming import MAY_CHANGE

FILE = Path(__file__).parent.parent / "docs" / "configuration.md"
_HEADER = """# Configuration

Generated from `configs/schema.py` by `uv run python -m scripts.reference`; do not edit.

A run is configured by a YAML file, by name (`atari/quickstart`) or by path, and by `KEY=VALUE`
overrides with dotted keys: `bmg train atari/quickstart env.game=breakout seed=3`. Keys that a file
leaves out have the defaults below. The resolved configuration stands in the run folder's
`config.yaml`, and `bmg train RUN_DIR/config.yaml` repeats the run.

Files and values are a core of YAML 1.2: text, decimal numbers (`010` is ten, `1_000_000` a
million, `2e8` a whole number where one is asked for), `true` and `false`, `null`, lists and groups.
`1:00:00`, `2024-01-01` and `off` are text. A key that stands twice in a group is refused, with both
lines; so is what is nested more than 20 levels deep or stands for more than 20,000 values, aliases
included. A group on the command line (`meta={inner_steps: 2}`) is laid over the file's. `~` is the
home folder wherever a path is asked for. What surely cannot fit into the machine's memory is
refused with the sum, before anything is created; `meta` keys on the command line that act nowhere,
because nothing is learned, are told.

`plugins` add to the names of suites, algorithms, networks, objectives and matching functions, and
each hyper-parameter that they add has keys under `agent`, `meta.outer` and `meta.upper`
(docs/extending.md).

A run that goes on (`--resume`) keeps its configuration; other values may be given of
"""


def reference() -> str:
    """The reference page of all keys, in Markdown."""
    top = {name: f for name, f in Config.model_fields.items() if not _is_group(f)}
    may_change = ", ".join(f"`{key}`" for key in MAY_CHANGE)
    parts = [f"{_HEADER}{may_change}.\n", _table("Top level", "", top)]
    parts.extend(_groups(Config, ""))
    return "\n".join(parts)


def _groups(model: type[BaseModel], prefix: str) -> list[str]:
    """The tables of all groups within a model, each followed by those within it."""
    tables = []
    for name, field in model.model_fields.items():
        if _is_group(field):
            group: Any = field.annotation
            title = (group.__doc__ or name).strip()
            fields = {n: f for n, f in group.model_fields.items() if not _is_group(f)}
            tables.append(_table(title, f"{prefix}{name}.", fields))
            tables.extend(_groups(group, f"{prefix}{name}."))
    return tables


def _is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _table(title: str, prefix: str, fields: dict[str, FieldInfo]) -> str:
    lines = [
        f"## {title}",
        "",
        "| key | default | allowed | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for name, field in fields.items():
        meaning = " ".join((field.description or "").split())
        default = "null" if field.default is None else str(field.default)
        default = default.lower() if isinstance(field.default, bool) else default
        meaning = meaning.replace("|", "\\|")
        lines.append(
            f"| `{prefix}{name}` | `{default}` | {_allowed(prefix + name, field)} | {meaning} |"
        )
    return "\n".join([*lines, ""])


def _allowed(key: str, field: FieldInfo) -> str:
    table = TABLES.get(key)
    options = table.built_in + table.of_tasks if table else get_args(field.annotation)
    if options and all(isinstance(option, str) for option in options):
        return ", ".join(f"`{option}`" for option in options)
    kinds = [
        getattr(getattr(option, "__origin__", option), "__name__", str(option))  # of Annotated
        for option in options or [field.annotation]
    ]
    bounds = []
    for constraint in field.metadata:
        for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
            bound = getattr(constraint, attribute, None)
            if bound is not None:
                bounds.append(f"{sign} {bound}")
    return " or ".join(kind.replace("NoneType", "null") for kind in kinds) + "".join(
        f", {bound}" for bound in bounds
    )


if __name__ == "__main__":
    FILE.write_text(reference())
