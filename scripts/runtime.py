"""What a process needs around a run: compilation cache, signals, memory."""

import contextlib
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import jax
import psutil

from scripts import signals
from scripts.output import complain

# From a signal to a word that it has to wait; then the next one ends the run. (Some batch systems
# send SIGTERM several times, and do not mean that.)
_LATE_SECONDS = {signal.SIGINT: 3.0, signal.SIGTERM: 20.0, signal.SIGHUP: 20.0}
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
        self._asked = False  # by the loop, since one has come
        signals.forget_interrupt()
        signals.lose_no_interrupt()
        for number in signals.ending():
            signal.signal(number, self._handle)

    def __call__(self) -> bool:
        """Whether a signal has come."""
        self._asked = self.received is not None
        return self._asked

    def exit_status(self) -> int:
        """As a shell expects it after a signal; SIGTERM, if another learner process had one."""
        return 128 + int(self.received or signal.SIGTERM)

    @contextlib.contextmanager
    def obeyed(self, before_the_end: Callable[[], None]) -> Iterator[None]:
        """Around a loop that asks whether a signal has come, but may be kept from asking for long.

        A compilation keeps it, or a call of a Ray that is suspended; and Python looks at no signal
        in the middle of a call. So another thread listens: it says when a signal has not been asked
        for, and the next one then ends the process without a checkpoint of that moment.

        Args:
            before_the_end: of the process; called by that thread.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        outer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        listens = threading.Thread(target=self._listen, args=(reader, before_the_end), daemon=True)
        listens.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(outer)
            os.close(writer)  # which ends the thread
            listens.join()

    def _listen(self, reader: int, before_the_end: Callable[[], None]) -> None:
        first: signal.Signals | None = None
        end, said = 0.0, False  # of waiting; whether it was said that it waits
        while True:
            left = None if first is None or said else max(0.0, end - time.monotonic())
            if select.select([reader], [], [], left)[0]:
                if not (came := os.read(reader, 1)):
                    break
                if self._asked or came[0] not in signals.ending():
                    continue
                if first is None:
                    first = signal.Signals(came[0])
                    end = time.monotonic() + _LATE_SECONDS[first]
                elif said:
                    _end_at_once(came[0], before_the_end)
            elif self._asked:
                first = None  # what follows is a checkpoint
            elif first is not None:
                said = True
                _log.warning(
                    "bmg: %s came in the middle of a step, a compilation or a call of Ray's; once "
                    "that is over a checkpoint is saved. Another signal ends the run at once, "
                    "without one.",
                    first.name,
                )
        os.close(reader)

    def _handle(self, number: int, frame: object) -> None:
        del frame
        if self.received == signal.SIGINT and number == signal.SIGINT:
            signals.raise_interrupt(number)
        self.received = signal.Signals(number)


def _end_at_once(number: int, before_the_end: Callable[[], None]) -> NoReturn:
    with contextlib.suppress(Exception):  # a full disk, say
        before_the_end()
    signals.undo_all()
    complain("ended without a checkpoint of this moment; --resume goes on from the newest one")
    os._exit(128 + number)


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
