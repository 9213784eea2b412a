"""What a user sees while a run goes on: a live table, or plain lines where there is no terminal."""

import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from agents.hyperparameters import HYPERPARAMETERS
from learner.reading import printable
from scripts.output import say

_META = (
    *("meta/loss", "meta/gradient_norm", "meta/target_distance", "meta/cosine"),
    "meta/greedy_changes",
)
_LOOK_SECONDS = 2.0  # without a terminal, between two looks at what a run waits for
_RECENT_LINES = 10  # that the time left is estimated from
_MOST_PAIRS = 3  # of names and values, side by side
_WIDE = 10_000  # characters: more than any table needs
_AROUND_TABLE = 4  # lines: its borders, the bar below it and the cursor's own


class Display(Protocol):
    """Shows the metrics of a run, and what it waits for until there are some."""

    def wait(self, what: Callable[[], str]) -> None:
        """Says what nothing is learned for yet, until the next call or the first metrics.

        Args:
            what: asked now and then, by another thread.
        """
        ...

    def begin(self) -> None:
        """Tells that nothing will be refused any more; before, no line is printed for good."""
        ...

    def show(self, metrics: dict[str, Any]) -> None:
        """Takes the newest metrics."""
        ...

    def close(self) -> None:
        """Leaves the terminal as it was. May be called twice."""
        ...

    def abandon(self) -> None:
        """Shows the cursor again; for the handler of a signal, in which nothing else is safe."""
        ...


def make_display(title: str, total_frames: int, unit: str = "frames") -> Display:
    """A live display on a terminal, else one line for each call.

    Args:
        title: what runs, and where to.
        total_frames: of the run.
        unit: what those are; `tasks` in few-shot learning.
    """
    if sys.stdout.isatty():
        return _Live(title, total_frames, unit)
    return _Lines(title, total_frames, unit)


class NoDisplay:
    """Shows nothing; see `Display`. For learner processes beside the first one."""

    def wait(self, what: Callable[[], str]) -> None:
        """Nothing."""

    def begin(self) -> None:
        """Nothing."""

    def show(self, metrics: dict[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def abandon(self) -> None:
        """Nothing."""


def _starting() -> str:
    return "starting"


def number(value: float | None, digits: int = 2) -> str:
    """With commas; a dash for None."""
    return "-" if value is None else f"{value:,.{digits}f}"


def seconds_left(lines: Sequence[dict[str, Any]], total_frames: int) -> float | None:
    """Until a run has all its frames, if it goes on as over the newest lines of its metrics.

    None until there are two: the first one spans what was compiled and started.
    """
    newest = lines[-_RECENT_LINES:]
    if len(newest) < 2:
        return None
    first, last = newest[0], newest[-1]
    frames, seconds = (last.get(k, 0) - first.get(k, 0) for k in ("frames", "seconds"))
    if frames <= 0 or seconds <= 0:
        return None
    return max(0, total_frames - last["frames"]) * seconds / frames


def clock(seconds: float | None) -> str:
    """h:mm:ss; a dash for None."""
    if seconds is None:
        return "-"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def _learned(metrics: dict[str, Any]) -> list[tuple[str, float]]:
    """The acting head's hyper-parameters that are not constant."""
    names = [name for name in HYPERPARAMETERS if f"meta/{name}" in metrics]
    return [(name, metrics[f"meta/{name}"]) for name in names]


class _Lines:
    def __init__(self, title: str, total_frames: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total_frames, unit
        self._began, self._what = time.monotonic(), _starting
        self._recent: collections.deque[dict[str, Any]] = collections.deque(maxlen=_RECENT_LINES)
        self._thread: threading.Thread | None = None
        self._has_numbers = threading.Event()

    def wait(self, what: Callable[[], str]) -> None:
        self._what = what

    def begin(self) -> None:
        say(self._title)
        self._thread = threading.Thread(target=self._tell_what_it_waits_for, daemon=True)
        self._thread.start()

    def _tell_what_it_waits_for(self) -> None:
        told = ""
        while not self._has_numbers.is_set():
            if (text := self._what()) != told:
                say(f"{self._elapsed()}  {text}")
            told = text
            self._has_numbers.wait(_LOOK_SECONDS)

    def show(self, metrics: dict[str, Any]) -> None:
        self.close()
        self._recent.append(metrics)
        print(self._line(metrics), flush=True)

    def _elapsed(self) -> str:
        return clock(time.monotonic() - self._began)

    def _line(self, metrics: dict[str, Any]) -> str:
        return (
            f"{self._elapsed()}  {self._unit} {metrics['frames']:,}/{self._total:,}"
            f"  {metrics['frames_per_second']:,.0f} {self._unit}/s"
            f"  left {clock(seconds_left([*self._recent], self._total))}"
            f"  {self._success(metrics)}"
            f"  loss {number(metrics['loss/total'], 4)}"
            + "".join(f"  {name} {value:.4g}" for name, value in _learned(metrics))
        )

    def _success(self, metrics: dict[str, Any]) -> str:
        if judged := judgements(metrics):
            return "  ".join(f"{name} {value}" for name, value in judged)
        if "seeds" in metrics:
            return "  ".join(f"{name} {value}" for name, value in _of_seeds(metrics)[:-1])
        return (
            f"return {number(metrics['episode_return'])}"
            f"  episodes {metrics['episodes']:,}"
            f"  lag {number(metrics['policy_lag'], 1)}"
            f"  actors {metrics['actors/alive']:.0f}"
        )

    def close(self) -> None:
        if self._thread is not None:
            self._has_numbers.set()
            self._thread.join()  # else it might be printing when Python ends, which is fatal
            self._thread = None

    def abandon(self) -> None:
        """Nothing."""


def judgements(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """How new tasks of few-shot learning are known: accuracies, or losses where there are none."""
    prefix = "validation/"
    names = [name for name in metrics if name.startswith(f"{prefix}accuracy")]
    names = names or [name for name in metrics if name.startswith(f"{prefix}query_loss")]
    names.sort(key=lambda name: (not name.endswith("_before"), len(name), name))
    return [(name.removeprefix(prefix), number(metrics[name], 4)) for name in names]


def _of_seeds(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    if judged := judgements(metrics):
        return [*judged, ("seeds", f"{metrics['seeds']}")]
    returns = metrics.get("episode_return")
    return [
        *([("mean return", number(returns))] if returns is not None else []),
        ("reward/step", number(metrics["reward_per_step"], 4)),
        ("seeds", f"{metrics['seeds']}"),
    ]


def _of_actors(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    lag, lag_max = metrics["policy_lag"], metrics["policy_lag_max"]
    return [
        ("mean return", number(metrics["episode_return"])),
        ("episodes", f"{metrics['episodes']:,}"),
        ("actors alive", f"{metrics['actors/alive']:.0f}"),
        ("restarts", f"{metrics['actors/restarts']:.0f}"),
        ("policy lag", f"{number(lag, 1)} (max {number(lag_max, 0)})"),
    ]


class _Live:
    def __init__(self, title: str, total_frames: int, unit: str) -> None:
        self._unit = unit
        self._title = Text(printable(title, len(title)))  # of which brackets are no markup
        self._began, self._what = time.monotonic(), _starting
        self._total = total_frames
        self._recent: collections.deque[dict[str, Any]] = collections.deque(maxlen=_RECENT_LINES)
        self._before: dict[str, float] = {}
        self._moved: dict[str, str] = {}
        bar = TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn()
        self._progress = Progress(*bar)
        self._task = self._progress.add_task(f"of {total_frames:,} {unit}", total=total_frames)
        self._descriptor = sys.stdout.fileno()
        # Transient: what is refused should stand alone.
        self._live = Live(
            console=Console(), get_renderable=self._shown, refresh_per_second=4, transient=True
        )

    def wait(self, what: Callable[[], str]) -> None:
        self._what = what
        self._live.start(refresh=True)  # not before: whoever waits knows how to close it

    def begin(self) -> None:
        self._live.transient = False

    def show(self, metrics: dict[str, Any]) -> None:
        self._progress.update(self._task, completed=min(metrics["frames"], self._total))
        for name, value in _learned(metrics):
            self._moved[name] = self._moving(name, value)
        self._recent.append(metrics)

    def _shown(self) -> RenderableType:
        elapsed = clock(time.monotonic() - self._began)
        if not self._recent:
            waiting = Text(f"{elapsed}  {self._what()}", style="dim")
            return Group(self._title, waiting, self._progress)
        table = fitted(self._title, self._cells(elapsed), self._live.console)
        layout = Table.grid(expand=True)
        layout.add_row(table)
        layout.add_row(self._progress)
        return layout

    def _cells(self, elapsed: str) -> list[tuple[str, str]]:
        metrics = self._recent[-1]
        return [
            (self._unit, f"{metrics['frames']:,}"),
            (f"{self._unit}/s", number(metrics["frames_per_second"], 0)),
            ("time left", clock(seconds_left([*self._recent], self._total))),
            ("elapsed", elapsed),
            ("learner updates", f"{metrics['learner_updates']:,}"),
            *(_of_seeds(metrics) if "seeds" in metrics else _of_actors(metrics)),
            *((k, number(v, 4)) for k, v in metrics.items() if k.startswith("loss/")),
            *((name, self._moved[name]) for name, _ in _learned(metrics)),
            *((k, number(metrics[k], 4)) for k in _META if k in metrics),
        ]

    def _moving(self, name: str, value: float) -> str:
        """A learned value, and where it has gone since the line before."""
        before = self._before.get(name, value)
        self._before[name] = value
        arrow = "" if value == before else (" up" if value > before else " down")
        return f"{value:.5g}{arrow}"

    def close(self) -> None:
        self._live.stop()

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # of a terminal that is gone
            os.write(self._descriptor, b"\x1b[?25h")


def fitted(title: Text, cells: Sequence[tuple[str, str]], console: Console) -> Table:
    """A table in which no name and no number is cut, with what matters most of what has no room.

    Args:
        title: stands above it.
        cells: names and values.
        console: whose size it is for.
    """
    width, height = console.size
    room = max(2, height - len(title.wrap(console, width)) - _AROUND_TABLE)
    unbounded = console.options.update_width(_WIDE)
    pairs = _MOST_PAIRS
    while pairs > 1:
        table = _table(_kept(cells, room, pairs), pairs)
        if console.measure(table, options=unbounded).maximum <= width:
            break
        pairs -= 1
    kept = _kept(cells, room, pairs)
    table = _table(kept, pairs)
    if len(kept) < len(cells):
        table.caption = f"{len(cells) - len(kept)} more in metrics.jsonl"
    table.title, table.expand = title, True
    return table


def _kept(cells: Sequence[tuple[str, str]], rows: int, pairs: int) -> list[tuple[str, str]]:
    """Those that have room; a row less where some have none, which is then said."""
    if len(cells) <= rows * pairs:
        return list(cells)
    return sorted(cells, key=lambda cell: _is_detail(cell[0]))[: (rows - 1) * pairs]


def _is_detail(name: str) -> bool:
    return "/" in name and name not in (
        "frames/s",
        "tasks/s",
        "reward/step",
        "loss/total",
        "meta/loss",
    )


def _table(cells: Sequence[tuple[str, str]], pairs: int) -> Table:
    table = Table(show_header=False)
    for _ in range(pairs):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    rows = -(-len(cells) // pairs)  # downwards: so names of one length stand below one another
    for row in range(rows):
        table.add_row(*(text for cell in cells[row::rows] for text in cell))
    return table
