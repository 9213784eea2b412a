"""`bmg train --profile`: a trace of a few steps of the learner, which a browser opens."""

import gzip
import logging
import shutil
import threading
from pathlib import Path

import jax

from learner.loop import Progress
from learner.run_folder import write_error
from scripts.output import say

_log = logging.getLogger(__name__)
_FOLDER = "profile"  # in a run folder
_TRACE = "trace.json.gz"  # in that of a trace
_COMPILING = 2  # steps of a start of a run, before the trace
_STEPS = 10
# And no longer, if need be in the midst of a step: a program of small products has hundreds of
# thousands of events a second on each core, and a step of many seeds may take minutes.
_SECONDS = 1.0
# Of JAX's file, which Perfetto was seen not to open because of it (as jax.profiler says).
_METADATA = b'"metadata":{"highres-ticks":true},'


class Profile:
    """A trace of the learner's first steps after compilation, written beside the training.

    Whatever goes wrong with it costs the trace and one line, and never the run.
    """

    def __init__(self, path: Path) -> None:
        """Begins nothing yet; `path` is of the run folder."""
        self._path = path / _FOLDER
        self._steps = 0
        self._enough = threading.Event()
        self._writer: threading.Thread | None = None

    def before_step(self, progress: Progress) -> None:
        """To be called before each step of the learner."""
        if self._steps == _COMPILING:
            self._start(progress.updates)
        elif self._steps == _COMPILING + _STEPS:
            self._enough.set()
        self._steps += 1

    def close(self) -> None:
        """Waits until the trace is written. No step may follow."""
        self._enough.set()
        if self._writer is not None:
            self._writer.join()
        elif self._steps <= _COMPILING:
            _log.warning("no profile: the run ended before the learner's step %d", _COMPILING + 1)

    def _start(self, updates: int) -> None:
        folder = self._path / f"update-{updates}"
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # each call of an environment's own code would be an event
        try:
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier start at the same update
            folder.mkdir(parents=True)
            jax.profiler.start_trace(folder, profiler_options=options)
        except Exception as error:  # of a profiler that no training should depend on
            _say_failed(error)
            return
        # No daemon: Python must not end while it prints.
        self._writer = threading.Thread(target=self._write, args=(folder,))
        self._writer.start()

    def _write(self, folder: Path) -> None:
        self._enough.wait(_SECONDS)
        try:
            jax.profiler.stop_trace()
            _take_out_metadata(folder)
        except Exception as error:  # as above; of a full disk, say
            shutil.rmtree(folder, ignore_errors=True)
            _say_failed(error)
        else:
            say(f"profile: {folder / _TRACE} (for https://ui.perfetto.dev or chrome://tracing)")


def _take_out_metadata(folder: Path) -> None:
    (written,) = folder.glob("plugins/profile/*/*.trace.json.gz")
    with gzip.open(written) as old, gzip.open(folder / _TRACE, "wb", compresslevel=1) as new:
        head = old.read(1024)
        new.write(head.replace(_METADATA, b"", 1))
        shutil.copyfileobj(old, new)
    written.unlink()


def _say_failed(error: Exception) -> None:
    _log.warning("no profile: %s; the run goes on", write_error(error))
