"""Where a Ray that is started on this machine keeps its sockets and logs, found without Ray."""

import errno
import os
import shutil
import sys
import tempfile

# Of a socket's path: what the system takes, less the names that Ray puts behind its folder's.
_SOCKET = "/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"
_LONGEST = (103 if sys.platform == "darwin" else 107) - len(_SOCKET)
_DEFAULT = "/tmp"
_ROOM = 16 * 2**20  # bytes; on a full disk Ray waits for half a minute and does not say for what


def ray_folder() -> str:
    """The folder `ray` below RAY_TMPDIR, TMPDIR or /tmp.

    Batch systems give each job a TMPDIR, whose path may be too long for sockets; then it is /tmp.
    Whoever sets RAY_TMPDIR means Ray.

    Raises:
        ValueError: Ray cannot use it; the message says what to change.
    """
    if given := os.environ.get("RAY_TMPDIR"):
        folder = os.path.join(os.path.abspath(given), "ray")
        if fault := _fault(folder):
            raise ValueError(f"RAY_TMPDIR={given}: {fault}; set it to another folder")
        return folder
    for place in (os.environ.get("TMPDIR"), _DEFAULT):
        if place and os.path.isdir(place):
            folder = os.path.join(os.path.abspath(place), "ray")
            if not _fault(folder):
                return folder
    raise ValueError(
        f"Ray needs a folder for its sockets, and {_fault(os.path.join(_DEFAULT, 'ray'))}; set "
        f"RAY_TMPDIR to one with a path of at most {_LONGEST - len('/ray')} bytes"
    )


def _fault(folder: str) -> str | None:
    if len(os.fsencode(folder)) > _LONGEST:
        return f"sockets below {folder} would have too long a path"
    existing = folder
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    try:
        os.rmdir(tempfile.mkdtemp(dir=existing))
    except OSError as error:
        return f"{existing} cannot be written ({error.strerror})"
    if shutil.disk_usage(existing).free < _ROOM:
        return f"{existing} has no room ({os.strerror(errno.ENOSPC)})"
    return None
