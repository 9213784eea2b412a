"""Readers that go away, closed and full streams, an ASCII locale: the work goes on all the same."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

from scripts.output import _Descriptor
from tests.system.command import PATIENCE, ROOT, read_metrics, read_summary, wait_for

_BMG = (sys.executable, "-m", "scripts.cli")
_TRAIN = (
    *("train", "catch/impala", "actors.runtime=in_process", "actors.count=1"),
    *("logging.every_seconds=0.2", "logging.tensorboard=false"),
)
_ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


def _start(*arguments, **options):
    return subprocess.Popen([*_BMG, *map(str, arguments)], cwd=ROOT, **options)


def _shell(redirections, *arguments, **variables):
    """Runs to the end, with the redirections of a shell; exit status of `bmg`, and its output."""
    return subprocess.run(
        [
            "bash",
            "-c",
            f'set -o pipefail; "$@" {redirections}',
            "bash",
            *_BMG,
            *map(str, arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env={**os.environ, **variables},
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.ci
@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_a_training_outlives_its_reader(tmp_path, terminal):
    """Lines and the live display; then SIGTERM has the status that it always has."""
    folder = tmp_path / "run"
    ours, theirs = pty.openpty() if terminal else os.pipe()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        process = _start(
            *(*_TRAIN, "total_frames=100000000", "--run-dir", folder),
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    os.close(theirs)
    assert os.read(ours, 1)
    os.close(ours)
    seen = len(read_metrics(folder))
    wait_for(lambda: len(read_metrics(folder)) >= seen + 3 or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "")
    assert read_summary(folder)["status"] == "interrupted"


@pytest.mark.ci
def test_closed_and_full_streams_in_a_folder_that_the_locale_cannot_show(tmp_path):
    folder = tmp_path / "日本"
    run = (*_TRAIN, "evaluation.every_frames=300", "evaluation.episodes=1", "total_frames=600")
    trained = _shell("<&- >&- 2>&-", *run, "--run-dir", folder)
    assert trained.returncode == 0
    assert read_summary(folder)["status"] == "finished"
    assert read_metrics(folder)  # whole lines: nothing else was written into the file
    played = _shell("| true", "evaluate", folder, "--snapshots")
    assert (played.returncode, played.stderr) == (0, "")
    played = {file.name for file in folder.glob("evaluation-at-*.json")}
    assert played == {f"evaluation-at-{n}.json" for n in (576, 1152)}
    for redirections in ("", ">/dev/full 2>/dev/full"):
        reported = _shell(redirections, "report", folder, **_ASCII)
        assert (reported.returncode, reported.stderr) == (0, "")
    assert "日本" in (folder / "index.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("redirections", "status", "said"),
    [
        ("| head -1", 0, ""),
        (">&-", 1, "bmg: games: standard output cannot be written: Bad file descriptor\n"),
        (">/dev/full", 1, "bmg: games: standard output cannot be written: No space left"),
    ],
)
def test_a_list_is_written_or_it_is_said_that_it_is_not(redirections, status, said):
    """The reader of a list that goes away has seen what it wanted, and is no failure."""
    listed = _shell(redirections, "games")
    assert listed.returncode == status
    assert listed.stderr.startswith(said)
    assert listed.stderr.count("\n") == status


@pytest.mark.parametrize("redirections", ["2>&-", "2>/dev/full", "2>&1 | true"])
def test_a_refusal_that_cannot_be_shown_is_one_all_the_same(redirections):
    refused = _shell(redirections, "trian")
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", "")


def test_a_pipe_that_does_not_block_loses_nothing():
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    text = json.dumps(list(range(50_000))).encode()
    with os.fdopen(ours, "rb") as reader:
        received = []
        thread = threading.Thread(target=lambda: received.append(reader.read()))
        output = _Descriptor(theirs)
        written = output.write(text)  # what a pipe holds
        thread.start()
        while written < len(text):
            written += output.write(text[written:])
        os.close(theirs)
        thread.join()
    assert received == [text]


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_an_interrupt_while_it_loads_gives_the_cursor_back(tmp_path, seconds):
    ours, theirs = pty.openpty()
    command = (*_TRAIN, "--run-dir", tmp_path / "run")
    process = _start(*command, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    while b"\x1b[?25l" not in shown:  # hides the cursor
        shown += os.read(ours, 65536)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # which a terminal raises that has no other end
        while more := os.read(ours, 65536):
            shown += more
    assert process.wait(PATIENCE) == 130
    assert shown.rpartition(b"\x1b[?25")[2].startswith(b"h")
    assert not (tmp_path / "run").exists()
    os.close(ours)
