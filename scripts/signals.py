"""The signals that end a command: Ctrl-C, a batch system's, that of a terminal that is closed."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

_undoing: list[Callable[[], None]] = []


def ending() -> list[signal.Signals]:
    """Those that end a command. `nohup` ignores SIGHUP before it starts one; so it stays."""
    hung_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hung_up]


def leave_at_once() -> None:
    """From here on each of them ends this process, without a word.

    An exception would do that with a traceback, would be ignored in a callback, and in the import
    of a library in C it is a segmentation fault.
    """
    for number in ending():
        signal.signal(number, _leave)


def interrupt() -> None:
    """From here on each of them raises KeyboardInterrupt with its number."""
    for number in ending():
        signal.signal(number, _interrupt)


@contextlib.contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """Calls `undo` at the end, also if a signal ends the process before."""
    _undoing.append(undo)
    try:
        yield
    finally:
        _undoing.remove(undo)
        undo()


def exit_status(interrupted: KeyboardInterrupt) -> int:
    """As a shell expects it after a signal."""
    return 128 + (interrupted.args[0] if interrupted.args else signal.SIGINT)


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    for undo in _undoing:
        undo()
    with contextlib.suppress(Exception):  # nobody reads, say
        sys.stdout.flush()
    os._exit(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    raise KeyboardInterrupt(number)
