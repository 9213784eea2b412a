"""The signals that end a command: Ctrl-C, a batch system's, that of a terminal that is closed."""

import _thread
import atexit
import contextlib
import gc
import io
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

_FINALISED_SECONDS = 0.01
_undoing: list[Callable[[], None]] = []
_interrupted_by: int | None = None
_in_finaliser = False  # where what is raised is ignored
_was_interrupted = False  # once or more often: what was left in its middle may still complain


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
    lose_no_interrupt()
    for number in ending():
        signal.signal(number, _interrupt)


def lose_no_interrupt() -> None:
    """From here on a KeyboardInterrupt that falls into a finaliser is raised again after it.

    Python would print its traceback and go on.
    """
    sys.unraisablehook = _raise_again


@contextlib.contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """Calls `undo` at the end, also if a signal ends the process before."""
    _undoing.append(undo)
    try:
        yield
    finally:
        _undoing.remove(undo)
        undo()


def undo_all() -> None:
    """Before the process ends in the middle of what `undone` is around."""
    for undo in _undoing:
        undo()


def raise_interrupt(number: int) -> None:
    """Raises KeyboardInterrupt with the number of a signal, which ends this process.

    Libraries, which it leaves in the middle of their work, and their threads have no more to say.
    Where the exception would be ignored, the signal comes again.
    """
    if _in_finaliser:
        _send_again(number)
        return
    global _interrupted_by, _was_interrupted
    _interrupted_by, _was_interrupted = number, True
    threading.excepthook = lambda args: None
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    raise KeyboardInterrupt(number)


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Lets nothing interrupt what takes milliseconds: an interrupt in a finaliser comes again."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def forget_interrupt() -> None:
    """Before work begins: an interrupt of earlier work in this process is none of it."""
    global _interrupted_by
    _interrupted_by = None


def interrupted_by() -> int | None:
    """The signal of `raise_interrupt`, whatever a library may have made of the exception."""
    return _interrupted_by


def exit_status(interrupted: KeyboardInterrupt) -> int:
    """As a shell expects it after a signal."""
    return 128 + (interrupted.args[0] if interrupted.args else signal.SIGINT)


def end(status: int) -> NoReturn:
    """Ends this process as Python does, but takes nothing apart.

    Threads of libraries may still need it: one that was woken late made C++ abort the process, and
    what had finished was a failure. After an interrupt no thread is waited for: that of a save
    which was left in its middle waits for orbax's signals for minutes.
    """
    if not _was_interrupted:
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    files = (x for x in gc.get_objects() if issubclass(type(x), io.IOBase))  # also a sink's
    for stream in (*files, sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # nobody reads, say
            stream.flush()
    os._exit(status)


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    undo_all()
    with contextlib.suppress(Exception):  # nobody reads, say
        sys.stdout.flush()
    os._exit(128 + number)


def _raise_again(unraisable: "sys.UnraisableHookArgs") -> None:
    global _in_finaliser
    error = unraisable.exc_value
    if isinstance(error, KeyboardInterrupt):
        _in_finaliser = True
        _send_again(error.args[0] if error.args else signal.SIGINT)
        _in_finaliser = False
    elif not _was_interrupted:
        sys.__unraisablehook__(unraisable)


def _send_again(number: int) -> None:
    """By another thread, a little later: here it would be raised within a finaliser's hook.

    `threading` takes locks, which the code that was interrupted may hold.
    """

    def send() -> None:
        time.sleep(_FINALISED_SECONDS)
        os.kill(os.getpid(), number)

    _thread.start_new_thread(send, ())


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    raise_interrupt(number)
