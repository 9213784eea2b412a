"""What a user sees while a run goes on: a live table, or plain lines where there is no terminal."""

import sys
from typing import Any, Protocol

from rich.console import Console, Group
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


class Display(Protocol):
    """Shows the metrics of a run."""

    def show(self, metrics: dict[str, Any]) -> None:
        """Takes the newest metrics."""
        ...

    def close(self) -> None:
        """Leaves the terminal as it was."""
        ...


def make_display(title: str, total_frames: int) -> Display:
    """A live display on a terminal, else one line for each call."""
    if sys.stdout.isatty():
        return _Live(title, total_frames)
    say(title)
    return _Lines(total_frames)


def number(value: float | None, digits: int = 2) -> str:
    """With commas; a dash for None."""
    return "-" if value is None else f"{value:,.{digits}f}"


def seconds_left(metrics: dict[str, Any], total_frames: int) -> float | None:
    """Until a run has all its frames, if it goes on as fast as now; None while it stands still."""
    # Frames are those of each seed.
    rate = (metrics.get("frames_per_second") or 0.0) / (metrics.get("seeds") or 1)
    return max(0, total_frames - metrics["frames"]) / rate if rate > 0 else None


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
    def __init__(self, total_frames: int) -> None:
        self._total = total_frames

    def show(self, metrics: dict[str, Any]) -> None:
        print(self._line(metrics), flush=True)

    def _line(self, metrics: dict[str, Any]) -> str:
        return (
            f"frames {metrics['frames']:,}/{self._total:,}"
            f"  {metrics['frames_per_second']:,.0f} frames/s"
            f"  left {clock(seconds_left(metrics, self._total))}"
            f"  {self._success(metrics)}"
            f"  loss {number(metrics['loss/total'], 4)}"
            + "".join(f"  {name} {value:.4g}" for name, value in _learned(metrics))
        )

    def _success(self, metrics: dict[str, Any]) -> str:
        if judged := _judged(metrics):
            return "  ".join(f"{name} {value}" for name, value in judged)
        if "reward_per_step" in metrics:
            return f"reward/step {number(metrics['reward_per_step'], 4)}"
        return (
            f"return {number(metrics['episode_return'])}"
            f"  episodes {metrics['episodes']:,}"
            f"  lag {number(metrics['policy_lag'], 1)}"
            f"  actors {metrics['actors/alive']:.0f}"
        )

    def close(self) -> None:
        """Nothing is held open."""


def _judged(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """How new tasks of few-shot learning are known: accuracies, or losses where there are none."""
    prefix = "validation/"
    names = [name for name in metrics if name.startswith(f"{prefix}accuracy")]
    names = names or [name for name in metrics if name.startswith(f"{prefix}query_loss")]
    names.sort(key=lambda name: (not name.endswith("_before"), len(name), name))
    return [(name.removeprefix(prefix), number(metrics[name], 4)) for name in names]


def _of_seeds(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    if judged := _judged(metrics):
        return [*judged, ("seeds", f"{metrics['seeds']}")]
    return [
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
    def __init__(self, title: str, total_frames: int) -> None:
        self._title = Text(printable(title, len(title)))  # of which brackets are no markup
        self._total = total_frames
        self._before: dict[str, float] = {}
        self._progress = Progress(TextColumn("frames"), BarColumn(None), TaskProgressColumn())
        self._task = self._progress.add_task("frames", total=total_frames)
        waiting = self._title + ": waiting for the first batch"
        self._live = Live(Group(waiting, self._progress), console=Console(), refresh_per_second=4)
        self._live.start()

    def show(self, metrics: dict[str, Any]) -> None:
        self._progress.update(self._task, completed=min(metrics["frames"], self._total))
        table = Table(title=self._title, expand=True, show_header=False)
        for _ in range(3):
            table.add_column(style="dim", no_wrap=True)
            table.add_column(justify="right", no_wrap=True)
        cells = [
            ("frames", f"{metrics['frames']:,} / {self._total:,}"),
            ("frames/s", number(metrics["frames_per_second"], 0)),
            ("time left", clock(seconds_left(metrics, self._total))),
            ("learner updates", f"{metrics['learner_updates']:,}"),
            *(_of_seeds(metrics) if "seeds" in metrics else _of_actors(metrics)),
            *((k, number(v, 4)) for k, v in metrics.items() if k.startswith("loss/")),
            *((name, self._moving(name, value)) for name, value in _learned(metrics)),
            *((k, number(metrics[k], 4)) for k in _META if k in metrics),
        ]
        while len(cells) % 3:
            cells.append(("", ""))
        for row in range(0, len(cells), 3):
            table.add_row(*(text for cell in cells[row : row + 3] for text in cell))
        layout = Table.grid(expand=True)
        layout.add_row(table)
        layout.add_row(self._progress)
        self._live.update(layout)

    def _moving(self, name: str, value: float) -> str:
        """A learned value, and where it has gone since the line before."""
        before = self._before.get(name, value)
        self._before[name] = value
        arrow = "" if value == before else (" up" if value > before else " down")
        return f"{value:.5g}{arrow}"

    def close(self) -> None:
        self._live.stop()
