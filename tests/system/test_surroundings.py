"""Environment variables of notebooks, batch systems and shells: they act, or are refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from actors.ray_folder import ray_folder
from tests.system.command import PATIENCE, ROOT, read_summary

_LONG = "a-job-of-a-batch-system" * 4


def _bmg(variables, *arguments):
    unset = ("XLA_FLAGS", "JAX_PLATFORMS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, "-m", "scripts.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env=environment | variables,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "variable", "value", "said"),
    [
        ("train", "JAX_PLATFORMS", "cuda", "no such device here"),
        ("bench", "JAX_PLATFORMS", "nonsense", "no such device here"),
        ("train", "JAX_NUMPY_RANK_PROMOTION", "raaise", 'Invalid value "raaise"'),
        ("train", "XLA_FLAGS", "--nonsense", "Unknown flag in XLA_FLAGS: --nonsense"),
        ("train", "PYTHONOPTIMIZE", "2", "need their docstrings"),
        ("train", "RAY_TMPDIR", f"/tmp/{_LONG}", "too long a path; set it to another folder"),
    ],
    ids=["cuda", "nonsense", "rank_promotion", "xla_flags", "optimize", "ray_tmpdir"],
)
def test_what_cannot_work_is_refused_by_its_name(tmp_path, command, variable, value, said):
    if value == "cuda" and shutil.which("nvidia-smi"):
        pytest.skip("here is such a device")
    folder = tmp_path / "run"
    options = ("--run-dir", folder) if command == "train" else ()
    refused = _bmg({variable: value}, command, "catch/impala", *options)
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("bmg: ")
    assert variable in line.upper()
    assert said in line
    assert not folder.exists()


@pytest.mark.ci
def test_a_run_and_its_report_whatever_the_environment_asks_for(tmp_path):
    """With an actor of Ray's, which inherits it."""
    long = tmp_path / _LONG
    long.mkdir()
    given = {
        "JAX_ENABLE_X64": "1",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_TRANSFER_GUARD": "disallow",
        "JAX_DEBUG_KEY_REUSE": "1",
    }
    elsewhere = {"TMPDIR": str(long), "RAY_ADDRESS": "127.0.0.1:1", "HOME": "/proc"}
    folder = tmp_path / "run"
    overrides = ("actors.count=1", "total_frames=600", "logging.tensorboard=false")
    trained = _bmg(given | elsewhere, "train", "catch/bmg", *overrides, "--run-dir", folder)
    assert trained.returncode == 0, trained.stderr
    assert read_summary(folder)["status"] == "finished"
    lines = [line for line in trained.stderr.splitlines() if line.startswith("bmg: JAX_")]
    assert len(lines) == len(given)
    for (name, value), line in zip(given.items(), lines, strict=True):
        assert line.startswith(f"bmg: {name}={value} is not followed: ")
    notebook = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", **elsewhere}
    reported = _bmg(notebook, "report", folder)
    assert reported.returncode == 0, reported.stderr
    assert (folder / "index.html").exists()


def test_a_run_that_will_crawl_says_so():
    result = subprocess.run(
        [sys.executable, "-c", "from scripts import jax_environment as e; e.require_jax()"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env={**os.environ, "JAX_DISABLE_JIT": "1"},
        check=True,
    )
    assert result.stderr.startswith("bmg: JAX_DISABLE_JIT: nothing is compiled")


def test_where_ray_keeps_its_sockets(tmp_path, monkeypatch):
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    assert ray_folder() == "/tmp/ray"
    for unusable in ("", str(tmp_path / _LONG), "/nowhere", "/proc"):
        monkeypatch.setenv("TMPDIR", unusable)
        assert ray_folder() == "/tmp/ray"
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    assert ray_folder() == "/dev/shm/ray"
    monkeypatch.setenv("RAY_TMPDIR", "/dev/shm/not/yet")
    assert ray_folder() == "/dev/shm/not/yet/ray"
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    with pytest.raises(ValueError, match="RAY_TMPDIR=/proc: /proc cannot be written"):
        ray_folder()
    assert not Path("/dev/shm/not").exists()
