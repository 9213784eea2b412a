"""Where the numbers of a run come from: code, command, machine, packages, time."""

import importlib.metadata
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import psutil

_ROOT = Path(__file__).parents[1]
_GIT_SECONDS = 10.0
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def provenance() -> dict[str, Any]:
    """Facts of this process, for summary.json; docs/run_folder.md."""
    accelerators = [device for device in jax.local_devices() if device.platform != "cpu"]
    return {
        **_commit(_ROOT),
        "command": shlex.join(sys.argv),
        "folder": os.getcwd(),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": ", ".join(device.device_kind for device in accelerators) or None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": _packages(),
        "started": now(),
    }


def now() -> str:
    """The time as 2026-11-28T09:30:00+0000."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _commit(root: Path) -> dict[str, Any]:
    """The commit of a work tree, and whether its files differ from it; nulls where it is none."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():  # installed, in somebody else's tree
        return {"commit": None, "dirty": None}
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(root, "rev-parse", "HEAD"), "dirty": bool(changed)}


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        facts = ""
    found = re.search(r"^model name\s*: (.+)$", facts, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _packages() -> dict[str, str]:
    """Versions of bmg, of what it requires, and of jaxlib, which computes."""
    required = [r for r in importlib.metadata.requires("bmg") or [] if "extra ==" not in r]
    names = [match[0] for match in map(_NAME.match, required) if match]
    found: dict[str, str] = {}
    for name in sorted({"bmg", "jaxlib", *names}):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
