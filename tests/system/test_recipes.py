"""The recipes for clusters, as far as they can be executed without one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from configs.load import load
from tests.system.command import ROOT, read_metrics, read_summary, wait_for

RECIPES = ROOT / "scripts" / "cluster"


def _executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def on_path(tmp_path):
    """A PATH that begins with a folder of commands, and then has this environment's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    python = Path(sys.executable).parent
    return folder, {**os.environ, "PATH": f"{folder}:{python}:{os.environ['PATH']}"}


def _entrypoint():
    job = yaml.safe_load((RECIPES / "kuberay.yaml").read_text())
    assert job["kind"] == "RayJob"
    return job, job["spec"]["entrypoint"]


def test_the_rayjob_starts_or_resumes_a_configuration_that_loads(tmp_path, on_path):
    """Its volumes are those that it mounts, and its command line is one of ours."""
    job, entrypoint = _entrypoint()
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounted = {m["name"] for c in pod["containers"] for m in c["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    folder, environment = on_path
    _executable(folder / "bmg", '#!/bin/sh\necho "$@"\n')
    entrypoint = entrypoint.replace("/runs/", f"{tmp_path}/runs/")

    def command():
        result = subprocess.run(
            entrypoint, shell=True, env=environment, capture_output=True, text=True, check=True
        )
        return result.stdout.split()

    train, name, *overrides, option, run_dir = command()
    assert (train, option, run_dir) == ("train", "--run-dir", f"{tmp_path}/runs/bmg")
    assert load(name, overrides).actors.ray_address == "auto"
    (tmp_path / "runs" / "bmg").mkdir(parents=True)
    (tmp_path / "runs" / "bmg" / "config.yaml").touch()
    assert command()[-1] == "--resume"


@pytest.mark.slow
def test_the_slurm_script_trains_on_two_nodes_and_goes_on_when_queued_again(
    tmp_path, on_path, request
):
    """`srun` and `scontrol` run things on this machine; Ray, its two nodes and `bmg` are real."""
    folder, environment = on_path
    _executable(
        folder / "srun",
        '#!/bin/bash\nwhile [[ $1 == -* ]]; do shift; done\nexec "$@" --num-gpus=0\n',
    )
    _executable(
        folder / "scontrol",
        f"#!/bin/bash\ncase $1 in\nshow) echo 127.0.0.1; echo 127.0.0.1;;\n"
        f'requeue) echo "$2" > {tmp_path}/queued;;\nesac\n',
    )
    run_dir = tmp_path / "run"

    def queue(job, *overrides):
        options = ("catch/impala", "logging.every_seconds=0.5", *overrides)
        script = ["bash", str(RECIPES / "slurm.sbatch"), *options]
        job = {"SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "two", "SLURM_CPUS_PER_TASK": "1"}
        return subprocess.Popen(
            script, env={**environment, **job, "RUN_DIR": str(run_dir)}, cwd=tmp_path
        )

    def last():
        return (read_metrics(run_dir) or [{}])[-1]

    first = queue("4711", "total_frames=1000000000")
    request.addfinalizer(first.terminate)
    wait_for(lambda: last().get("actors/nodes") == 2, 180, "actors on both nodes play")
    first.send_signal(signal.SIGUSR1)
    assert first.wait(60) == 143
    assert (tmp_path / "queued").read_text() == "4711\n"
    stopped = read_summary(run_dir)
    assert stopped["status"] == "interrupted"
    again = queue("4712", f"total_frames={stopped['frames'] + 20_000}")
    assert again.wait(180) == 0
    finished = read_summary(run_dir)
    assert finished["status"] == "finished"
    assert finished["learner_updates"] > stopped["learner_updates"]
