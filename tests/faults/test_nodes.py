"""Nodes of a cluster that leave and come."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from prelar_ray.config import load_config
from prelar_ray.distributed.connection import connected
from prelar_ray.distributed.shared_folder import check_shared
from prelar_ray.errors import ResourceError
from tests.faults.runs import Command, assert_whole, note

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.nightly, pytest.mark.timeout(900)]


def test_a_run_survives_the_loss_of_a_node_and_continues_when_another_comes(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    steps = 8000
    try:
        lost = cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        command = Command(tmp_path, f"cluster={cluster.address}", f"finetune.env_steps={steps}", "collect.collectors=3")
        command.reach(60)
        at = command.updates()
        began = time.monotonic()
        cluster.remove_node(lost, allow_graceful=False)
        time.sleep(5)
        cluster.add_node(num_cpus=2)
        command.reach(at + 1)
        seconds = time.monotonic() - began
        command.finish()
        log = command.log.read_text()
        assert re.search(r"\S+ died.*(it is replaced|all roles restart|left out)", log), log
        assert_whole(command.out, steps)
        note("a node removed, another added 5 s later", 1, seconds, f"{command.lost_updates(at)} updates", "finished")
    finally:
        cluster.shutdown()


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_a_node_that_does_not_share_the_run_folder_is_named_before_anything_runs(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    out = tmp_path / "runs"
    out.mkdir()
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", out], capture_output=True).returncode:
        pytest.skip("may not mount")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    start = shlex.join(
        [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={cluster.address}", "--block"]
    )
    elsewhere = f"mount -t tmpfs none {shlex.quote(str(out))} && exec {start} --num-cpus=2"
    node = subprocess.Popen(["unshare", "-m", "sh", "-c", elsewhere], start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        with connected(load_config(None, None, [f"cluster={cluster.address}"])):
            while len([entry for entry in ray.nodes() if entry["Alive"]]) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.5)
            with pytest.raises(
                ResourceError, match=r"runs: node \S+ has another folder of that name; .* storage that all"
            ):
                check_shared(out)
            assert list(out.iterdir()) == []
    finally:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()
        cluster.shutdown()
