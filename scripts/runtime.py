"""What a process needs around a run: compilation cache, signals, memory."""

import contextlib
import os
import signal
from pathlib import Path

import jax
import psutil

from scripts import signals


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

    def _handle(self, number: int, frame: object) -> None:
        del frame
        if self.received == signal.SIGINT and number == signal.SIGINT:
            signals.raise_interrupt(number)
        self.received = signal.Signals(number)


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
