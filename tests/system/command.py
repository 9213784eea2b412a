"""Runs `bmg` as a user would: a real process, its output, its exit status."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Seconds after which something hangs, on the slowest of machines; no test measures with it.
PATIENCE = 600.0


def bmg(*arguments, timeout=PATIENCE, cwd=None):
    """Runs to the end; stdout and stderr as text."""
    return subprocess.run(
        [sys.executable, "-m", "scripts.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd or ROOT,
        check=False,
    )


def start(*arguments, cwd=None, **options):
    """Starts it in a session of its own, as a shell would start a job."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", *map(str, arguments)],
        text=True,
        cwd=cwd or ROOT,
        start_new_session=True,
        **pipes | options,
    )


def on_terminal(*arguments, timeout=PATIENCE):
    """Runs in a pseudo-terminal to the end; exit status and all that was shown, as bytes."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", *map(str, arguments)],
        stdout=follower,
        stderr=follower,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "140", "LINES": "40", "TERM": "xterm"},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    status = process.wait(timeout)
    os.close(leader)
    return status, shown


def read_metrics(folder):
    """Lines of a run's metrics.jsonl; none before there is one."""
    file = folder / "metrics.jsonl"
    return [json.loads(x) for x in file.read_text().splitlines()] if file.exists() else []


def read_summary(folder):
    """A run's summary.json."""
    return json.loads((folder / "summary.json").read_text())


def wait_for(condition, seconds=PATIENCE, what="it"):
    """Polls until the condition holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {seconds} s")
