"""Reading a run folder, whatever a crash, a full disk, an editor or a stranger has left in it.

Of what a file holds nothing but `Unreadable` is raised, with one line that names the file. What is
no number (NaN, infinities, what no calculation could go on with) is None; texts can be shown.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
_TAIL_BYTES = 65_536  # of metrics.jsonl: many lines
_LARGEST = 1e150  # its square is a number, too
_MOST_FRAMES = 2**53  # a larger count is not exact as a float
_LONGEST_TEXT = 200  # characters
_MOST_NAMED = 5  # lines of a file
_HISTOGRAM = "policy_lag_histogram"  # the one metric that is no number
_VERSION = re.compile("0|[1-9][0-9]*")  # str.isdigit takes ² as well, and int() cannot


class Unreadable(Exception):
    """A file of a run folder holds something else than it should; one line says which and why."""


def printable(text: str, longest: int = _LONGEST_TEXT) -> str:
    """A text in one line that neither a terminal obeys nor a file refuses; the rest is cut off."""
    with contextlib.suppress(UnicodeError):  # a path in an ASCII locale: its bytes, as surrogates
        text = text.encode("utf-8", "surrogateescape").decode("utf-8")
    if len(text) > longest:
        text = f"{text[: longest - 3]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def is_number(value: Any) -> bool:
    """Whether one can go on calculating with it."""
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST


def is_count(value: Any) -> bool:
    """Whether it is a whole number of frames, say; at least 0."""
    return is_number(value) and 0 <= value <= _MOST_FRAMES and value == int(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flat(value: Any) -> bool:
    """Whether it is an object of texts, numbers and truth values."""
    return isinstance(value, dict) and not any(isinstance(v, dict | list) for v in value.values())


def _is_protocol(value: Any) -> bool:
    return _is_flat(value) and is_number(value.get("sticky_actions", 0))


# What readers rely on, if it is there.
_OF_A_SUMMARY: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("status", "name", "algorithm", "reason"), (_is_text, "text")),
    **dict.fromkeys(("seed", "total_frames", "frames"), (is_count, "whole number")),
    "protocol": (_is_protocol, "dictionary of single values"),
    "versions": (_is_flat, "dictionary of single values"),
}
# And what has to be there.
_OF_AN_EVALUATION: dict[str, tuple[Callable[[Any], bool], str]] = {
    "policy": (_is_text, "text"),
    "mean_return": (is_number, "number"),
    "protocol": (_is_protocol, "dictionary of single values"),
    **dict.fromkeys(("frames", "episodes"), (is_count, "whole number")),
}


def read_object(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: it holds something else, or cannot be read.
    """
    try:
        content = _plain(json.loads(content_of(file)))
    except (ValueError, RecursionError):
        raise Unreadable(_damaged(file)) from None
    if not isinstance(content, dict):
        raise Unreadable(_damaged(file))
    return content


def read_summary(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """A run's summary, empty before there is one, and what of it had to be left out."""
    file, faults = folder / SUMMARY, []
    try:
        summary = read_object(file)
    except FileNotFoundError:
        return {}, []
    except Unreadable as error:
        return {}, [str(error)]
    for key, (is_one, kind) in _OF_A_SUMMARY.items():
        value = summary.pop(key, None)
        if value is not None and is_one(value):
            summary[key] = value
        elif value is not None:
            faults.append(printable(f"{file}: {key} is no {kind}", 1_000))
    return summary, faults


def read_evaluation(file: Path) -> dict[str, Any]:
    """What `bmg evaluate` has written.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: it is something else.
    """
    evaluation = read_object(file)
    for key, (is_one, kind) in _OF_AN_EVALUATION.items():
        if not is_one(evaluation.get(key)):
            raise Unreadable(printable(f"{file} cannot be read: {key} is no {kind}", 1_000))
    for key, is_one in (("standard_error", is_number), ("learner_updates", is_count)):
        if not is_one(evaluation.get(key)):
            evaluation[key] = None
    return evaluation


def read_evaluation_of_tasks(file: Path) -> dict[str, Any]:
    """What `bmg evaluate` has written of few-shot learning.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: it is something else.
    """
    evaluation = read_object(file)
    results = evaluation.get("accuracy", evaluation.get("query_loss"))
    if not isinstance(results, list) or not all(map(_is_of_tasks, results)):
        raise Unreadable(printable(f"{file} holds no evaluation of tasks", 1_000))
    return evaluation


def _is_of_tasks(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and is_count(value.get("steps"))
        and is_number(value.get("mean"))
        and all(_is_interval(value.get(key)) for key in ("interval", "interval_over_seeds"))
    )


def _is_interval(value: Any) -> bool:
    """Whether it is two numbers, or two None of one seed."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(end is None or is_number(end) for end in value)
    )


def read_metrics(folder: Path, most: int | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """Lines of a run's metrics.jsonl, none before there are any, and what of it is unreadable.

    A last line that a killed process left half written, or that is being written, is no fault.

    Args:
        folder: of the run.
        most: lines; evenly chosen ones, the last one among them.
    """
    file = folder / METRICS
    try:
        lines = content_of(file).split(b"\n")
    except FileNotFoundError:
        return [], []
    except Unreadable as error:
        return [], [str(error)]
    if not _parse(lines[-1])[1]:
        lines.pop()
    step = 1 if most is None else max(1, -(-len(lines) // most))
    found, damaged = [], []
    for index in range((len(lines) - 1) % step, len(lines), step) if lines else ():
        line, whole = _parse(lines[index])
        if line is not None:
            found.append(line)
        if not whole and lines[index].strip():
            damaged.append(index + 1)
    return found, _lines_named(file, damaged)


def last_metrics(folder: Path) -> dict[str, Any]:
    """The last whole line of a run's metrics, without reading all; empty before there is one."""
    lines = newest_metrics(folder, 1)
    return lines[0] if lines else {}


def newest_metrics(folder: Path, most: int = 10) -> list[dict[str, Any]]:
    """At most so many whole lines of a run's metrics, the newest last, without reading all."""
    try:
        if not (folder / METRICS).is_file():
            return []
        with (folder / METRICS).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            texts = file.read(_TAIL_BYTES).split(b"\n")
    except OSError:
        return []
    found: list[dict[str, Any]] = []
    for text in reversed(texts):
        line, _ = _parse(text)
        if line is not None:
            found.append(line)
        if len(found) == most:
            break
    return found[::-1]


def lines_until(content: bytes, frames: int) -> tuple[bytes, list[int]]:
    """What a metrics.jsonl holds up to some frames.

    Lines between these that cannot be read stay as they are: somebody may be able to mend them.

    Returns:
        The lines, and the numbers of those that cannot be read.
    """
    kept, damaged, end = list[bytes](), list[int](), (0, 0)
    for index, text in enumerate(content.split(b"\n")):
        line, _ = _parse(text)
        if line is None and text.strip():
            damaged.append(index + 1)
            kept.append(text)
        elif line is not None and line["frames"] <= frames:
            kept.append(text)
            end = len(kept), len(damaged)
    return b"".join(text + b"\n" for text in kept[: end[0]]), damaged[: end[1]]


def versions(folder: Path) -> list[int]:
    """Learner updates of the checkpoints or snapshots in a folder, in order.

    Raises:
        OSError: the folder is there and cannot be read.
    """
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if _VERSION.fullmatch(name))


def content_of(file: Path) -> bytes:
    """All that a file holds.

    Raises:
        FileNotFoundError: there is none, or its link leads nowhere.
        Unreadable: it is no file, as a pipe that nobody writes to, or the system refuses.
    """
    try:
        if file.exists() and not file.is_file():
            raise Unreadable(printable(f"{file} cannot be read: it is no file", 1_000))
        return file.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unreadable(printable(f"{file} cannot be read: {reason}", 1_000)) from None


def _damaged(file: Path) -> str:
    return printable(f"{file} cannot be read: it is damaged or empty", 1_000)


def _plain(value: Any) -> Any:
    """What JSON has given, with nothing in it that could not be shown or calculated with."""
    if isinstance(value, dict):
        return {printable(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return printable(value)
    return value if isinstance(value, bool) or is_number(value) else None


def _parse(text: bytes) -> tuple[dict[str, Any] | None, bool]:
    """A line of metrics.jsonl, None if it is none, and whether all of it could be read."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None, False
    if not isinstance(content, dict) or not is_count(content.get("frames")):
        return None, False
    line: dict[str, Any] = {k: v for k, v in content.items() if v is None or is_number(v)}
    line["frames"] = int(content["frames"])
    whole = len(line) + (_HISTOGRAM in content) >= len(content)
    if isinstance(content.get(_HISTOGRAM), dict):
        line[_HISTOGRAM] = _plain(content[_HISTOGRAM])
    return line, whole


def _lines_named(file: Path, damaged: list[int]) -> list[str]:
    if not damaged:
        return []
    numbers = ", ".join(map(str, damaged[:_MOST_NAMED]))
    more = f" and {len(damaged) - _MOST_NAMED} more" if len(damaged) > _MOST_NAMED else ""
    plural = "s" if len(damaged) > 1 else ""
    return [printable(f"{file}: line{plural} {numbers}{more} cannot be read", 1_000)]
