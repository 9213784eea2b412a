"""Standard output and error of a command: what befalls their reader never befalls the work."""

import errno
import io
import os
import select
import sys
from typing import TextIO

from learner.reading import printable

_LONGEST_LINE = 300  # of a refusal: a screen or two; what goes beyond is a value that was given


class OutputLost(Exception):
    """Standard output has not taken what the command was called for."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.reader_has_gone = number == errno.EPIPE


def say(line: str) -> None:
    """Prints one line at once; a terminal obeys nothing of it, such as the name of a folder."""
    print(printable(line, len(line)), flush=True)


def complain(text: str, longest: int = _LONGEST_LINE) -> None:
    """Writes one line to stderr, whatever a user's values hold; the middle of a long one is cut."""
    line = " ".join(f"bmg: {text}".split())
    line = printable(line, len(line))
    if len(line) > longest:
        half = (longest - 5) // 2
        line = f"{line[:half]} ... {line[-half:]}"
    print(line, file=sys.stderr)


class _Descriptor(io.RawIOBase):
    """Writes to a descriptor; what that does not take is lost, unless it is `needed`.

    A pipe that nobody reads, a full disk, a terminal that was closed. A disk may have room again
    later, so each write is tried.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.needed = False

    def write(self, data, /) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # as a program left it with which the terminal is shared
                select.select([], [self._descriptor], [])
            except OSError as error:
                if self.needed:
                    self.needed = False  # what is still in the buffer is lost with it
                    raise OutputLost(error.errno or errno.EIO) from None
                return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


class Output:
    """Takes the place of `sys.stdout` and `sys.stderr`, also of closed ones.

    A stream that the caller has closed (`>&-`) would come back as the next file that is opened,
    a run's metrics say, for whatever prints in C or in a child: it becomes the null device.
    Characters that the stream's encoding does not know are shown escaped.
    """

    def __init__(self) -> None:
        self._stdout: _Descriptor | None = None
        self._closed = sys.stdout is None
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)
        # Streams that are others by now belong to whoever has called us from Python.
        if sys.stdout is sys.__stdout__:
            self._stdout, sys.stdout = _guarded(sys.stdout, 1)
        if sys.stderr is sys.__stderr__:
            _, sys.stderr = _guarded(sys.stderr, 2)

    def need(self) -> None:
        """From here on, what is printed is what the command was called for.

        Raises:
            OutputLost: standard output is closed; printing raises it where it fails later.
        """
        if self._closed:
            raise OutputLost(errno.EBADF)
        if self._stdout is not None:
            self._stdout.needed = True


def _guarded(stream: TextIO | None, number: int) -> tuple[_Descriptor, TextIO]:
    raw = _Descriptor(number)
    text = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=number == 2 or raw.isatty() or getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )
    return raw, text
