"""Joining a running Ray cluster of two nodes, by address and by `auto`."""

import os
import subprocess
import sys

import pytest
from ray.cluster_utils import Cluster

from tests.system.command import PATIENCE, ROOT, read_summary


@pytest.fixture(scope="module")
def cluster():
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    yield nodes
    nodes.shutdown()


# (By address: also by the tests of faults.)
@pytest.mark.ci
@pytest.mark.parametrize("by", [pytest.param("address", marks=pytest.mark.slow), "auto"])
def test_training_on_a_cluster_leaves_it_running(cluster, tmp_path, by):
    address = cluster.address if by == "address" else "auto"
    options = ["total_frames=60000", f"actors.ray_address={address}"]
    options += ["--run-dir", str(tmp_path / "run")]
    result = subprocess.run(
        [sys.executable, "-m", "scripts.cli", "train", "catch/impala", *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    summary = read_summary(tmp_path / "run")
    assert summary["status"] == "finished"
    assert summary["actors/alive"] >= 1
    assert not any(node.dead_processes() for node in cluster.list_all_nodes())
