"""What a user sees while episodes are played: a bar, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from scripts.display import clock

if TYPE_CHECKING:  # it imports jax
    from actors.evaluation import Moment

_LINE_SECONDS = 10.0  # between plain lines; what is over sooner shows none


class EvaluationDisplay:
    """Shows how far an evaluation is, and how long it goes on."""

    def __init__(self, title: str, episodes: int) -> None:
        self._title, self._episodes = title, episodes
        self._told_at = time.monotonic()
        self._first: tuple[float, int] | None = None  # the first step compiles for seconds
        self._progress = None
        if sys.stdout.isatty():
            told, left = TextColumn("{task.description}"), TextColumn("{task.fields[left]}")
            self._progress = Progress(
                told, BarColumn(None), left, console=Console(), transient=True
            )
            self._progress.start()
            self._task = self._progress.add_task(f"{title}: playing", total=1.0, left="")

    def show(self, moment: Moment) -> None:
        """Takes the newest state, and shows it from time to time."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, moment.frames
            return
        if now - self._told_at < (0.25 if self._progress is not None else _LINE_SECONDS):
            return
        self._told_at = now
        began, frames = self._first
        left = (now - began) * moment.frames_left / (moment.frames - frames)
        told = f"{moment.finished:,}/{self._episodes:,} episodes"
        until = f"left {'' if moment.sure else 'at most '}{clock(left)}"
        if self._progress is not None:
            self._progress.update(
                self._task,
                description=f"{self._title}: {told}",
                completed=moment.frames / (moment.frames + moment.frames_left),
                left=until,
            )
            return
        print(f"{self._title}: {told}  frames {moment.frames:,} each  {until}", flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()
