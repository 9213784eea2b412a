"""What a process needs around a run: compilation cache, signals, memory."""

import contextlib
import functools
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import psutil

from scripts import signals
from scripts.output import complain

# From a signal to a word that it has to wait; then the next one ends the run. (Some batch systems
# send SIGTERM several times, and do not mean that.)
_LATE_SECONDS = {signal.SIGINT: 3.0, signal.SIGTERM: 20.0, signal.SIGHUP: 20.0}
_NO_SIGNAL = bytes(1)
_PATIENCE_SECONDS = 5.0  # with a line or a file that is to be written
_HAS_TO_WAIT = (
    "bmg: %s has to wait for the end of a step, a compilation or a call of Ray's; another signal "
    "ends the run at once, without a checkpoint of this moment"
)
_log = logging.getLogger(__name__)


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, in $JAX_COMPILATION_CACHE_DIR or ~/.cache/bmg/xla."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        with contextlib.suppress(RuntimeError):  # an unknown user without HOME, as in containers
            home = Path.home()
            jax.config.update("jax_compilation_cache_dir", str(home / ".cache" / "bmg" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def prepare_jax(gpu_memory: float) -> None:
    """Keeps compiled programs, and to a share of a GPU's memory; before JAX looks for devices."""
    use_compilation_cache()
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{gpu_memory:g}")


class StopSignals:
    """Remembers SIGINT, SIGTERM and SIGHUP, so that the loop ends between two updates.

    A second SIGINT interrupts at once, for whoever does not want to wait for the checkpoint.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._heeded_at = 0.0  # when a save began that a signal had asked for
        self._saving = False
        self._before_the_end: Callable[[], None] = lambda: None
        signals.forget_interrupt()
        signals.lose_no_interrupt()
        for number in signals.ending():
            signal.signal(number, self._handle)

    def __call__(self) -> bool:
        """Whether a signal has come."""
        return self.received is not None

    def exit_status(self) -> int:
        """As a shell expects it after a signal; SIGTERM, if another learner process had one."""
        return 128 + int(self.received or signal.SIGTERM)

    @contextlib.contextmanager
    def obeyed(self) -> Iterator[None]:
        """Around a loop that asks whether a signal has come, but may be kept from asking for long.

        A compilation keeps it, or a call of a Ray that is suspended; and Python looks at no signal
        in the middle of a call. So another thread listens: it says when a signal has to wait, and
        the next one then ends the process without a checkpoint of that moment.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        outer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        listens = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        listens.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(outer)
            os.set_blocking(writer, True)
            os.write(writer, _NO_SIGNAL)  # (a forked child may have it open, too)
            listens.join()
            os.close(writer)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Around a save, which ends by itself: of signals a second SIGINT alone ends it."""
        if self.received is not None:
            self._heeded_at = time.monotonic()
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    @contextlib.contextmanager
    def noting(self, before_the_end: Callable[[], None]) -> Iterator[None]:
        """Around what leaves a record, which `before_the_end` ends if the process does at once."""
        self._before_the_end = before_the_end
        try:
            yield
        finally:
            self._before_the_end = lambda: None

    def _listen(self, reader: int) -> None:
        first, since, said = self.received, time.monotonic(), False  # said: that it has to wait
        while True:
            left = None
            if first is not None and not said:
                left = max(0.0, since + _LATE_SECONDS[first] - time.monotonic())
            if select.select([reader], [], [], left)[0]:
                if (came := os.read(reader, 1)) == _NO_SIGNAL:
                    break
                if self._saving or came[0] not in signals.ending():
                    continue
                if first is None or self._heeded_at > since:
                    first, since, said = signal.Signals(came[0]), time.monotonic(), False
                elif said:
                    _within_seconds(self._say_last_words)
                    os._exit(128 + came[0])
            elif first is not None and (self._saving or self._heeded_at > since):
                first = None
            elif first is not None:
                said = True
                _within_seconds(functools.partial(_log.warning, _HAS_TO_WAIT, first.name))
        os.close(reader)

    def _say_last_words(self) -> None:
        with contextlib.suppress(Exception):  # a full disk, say
            self._before_the_end()
        signals.undo_all()
        complain("ended without a checkpoint of this moment; --resume goes on from the newest one")

    def _handle(self, number: int, frame: object) -> None:
        del frame
        if self.received == signal.SIGINT and number == signal.SIGINT:
            signals.raise_interrupt(number)
        self.received = signal.Signals(number)


def _within_seconds(work: Callable[[], None]) -> None:
    """Tries it: the disk that it writes to may be what hangs."""
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(_PATIENCE_SECONDS)


def _forget_wakeups() -> None:
    with contextlib.suppress(ValueError):  # not the main thread
        signal.set_wakeup_fd(-1)


# Else a signal for a forked child would be heard here.
os.register_at_fork(after_in_child=_forget_wakeups)


def memory_mb() -> float:
    """Memory of this process and all that it started, in MiB; shared pages count once.

    Where the system does not know proportional sizes, the resident ones are added up.
    """
    total = 0
    process = psutil.Process()
    for member in [process, *process.children(recursive=True)]:
        try:
            sizes = member.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        total += getattr(sizes, "pss", sizes.rss)
    return total / 2**20
