"""What a user sees while a sweep goes on: a live table, or plain lines without a terminal."""

import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from learner.reading import newest_metrics
from scripts.display import clock, number, seconds_left
from scripts.output import say
from scripts.sweep.trials import Task, is_finished

_LINE_SECONDS = 30.0
_READ_SECONDS = 2.0
_ORDER = ("failed", "running", "waiting", "finished")


class _State(NamedTuple):
    name: str
    status: str
    share: float  # of the frames
    metrics: dict[str, Any]
    seconds_left: float | None
    reason: str


class SweepDisplay:
    """Shows the trials of a sweep, from their run folders."""

    def __init__(self, name: str, folder: Path, tasks: list[Task]) -> None:
        self._name, self._folder, self._tasks = name, folder, tasks
        self._began = time.time()
        self._finished = {task.name for task in tasks if is_finished(task)}
        self._read_at = self._line_at = 0.0
        self._told: dict[str, str] = dict.fromkeys(self._finished, "finished")
        self._live = None
        if sys.stdout.isatty():
            self._live = Live(console=Console(), refresh_per_second=2)
            self._live.start()
        else:
            say(f"{name}: {len(tasks)} trials -> {folder}")

    def show(self, failed: dict[str, str]) -> None:
        """Reads the run folders, not too often, and shows them."""
        now = time.monotonic()
        if now < self._read_at + _READ_SECONDS:
            return
        self._read_at = now
        states = [self._state(task, failed) for task in self._tasks]
        if self._live is not None:
            self._live.update(_table(self._summary(states), states, self._live.console.height - 8))
            return
        for state in states:
            if self._told.get(state.name, "waiting") != state.status:
                self._told[state.name] = state.status
                reason = f": {state.reason}" if state.reason else ""
                say(f"{state.name} {state.status}{reason}")
        if now >= self._line_at + _LINE_SECONDS:
            self._line_at = now
            print(self._summary(states), flush=True)

    def end(self, failed: dict[str, str]) -> None:
        """Shows the last state of all trials."""
        states = [self._state(task, failed) for task in self._tasks]
        self.close()
        Console(width=None if sys.stdout.isatty() else 120).print(
            _table(self._summary(states), states, len(states))
        )
        for state in states:
            if state.reason:
                say(f"{state.name} failed: {state.reason}")

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _state(self, task: Task, failed: dict[str, str]) -> _State:
        lines = newest_metrics(task.folder)
        metrics = lines[-1] if lines else {}
        share = min(1.0, metrics.get("frames", 0) / task.total_frames)
        if task.name not in self._finished and task.name not in failed and is_finished(task):
            self._finished.add(task.name)
        if task.name in self._finished:
            status = "finished"
        elif task.name in failed:
            status = "failed"
        else:
            log = task.folder.with_name(f"{task.name}.log")
            started = log.is_file() and log.stat().st_mtime >= self._began
            status = "running" if started else "waiting"
        left = seconds_left(lines, task.total_frames) if status == "running" else None
        return _State(task.name, status, share, metrics, left, failed.get(task.name, ""))

    def _summary(self, states: list[_State]) -> str:
        counts = {status: sum(s.status == status for s in states) for status in _ORDER}
        told = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
        running = [s.seconds_left for s in states if s.seconds_left is not None]
        missing = sum(1 - s.share for s in states if s.status in ("running", "waiting"))
        now = sum(1 - s.share for s in states if s.seconds_left is not None)
        text = f"{self._name}: {told}"
        if running and now > 0:
            # As fast as the running ones are now, on average, and as many at once.
            seconds = missing / now * sum(running) / len(running)
            text += f"; about {clock(seconds)} left"
        return text


def _table(title: str, states: list[_State], rows: int) -> Table:
    """The most interesting trials; the title counts all."""
    table = Table(title=title)
    table.add_column("trial")
    for column in ("status", "frames", "%", "return", "frames/s", "time left"):
        table.add_column(column, justify="right")
    by_interest = sorted(range(len(states)), key=lambda i: _ORDER.index(states[i].status))
    for state in (states[i] for i in sorted(by_interest[: max(rows, 5)])):
        success = state.metrics.get("episode_return")
        if success is None:
            success = state.metrics.get("reward_per_step")
        table.add_row(
            state.name,
            state.status,
            f"{state.metrics.get('frames', 0):,}",
            f"{100 * state.share:.0f}",
            number(success),
            number(state.metrics.get("frames_per_second"), 0),
            clock(state.seconds_left),
        )
    return table
