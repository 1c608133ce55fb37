"""Nodes of a cluster that leave and come."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.faults.runs import Command, assert_whole, note

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_run_survives_the_loss_of_a_node_and_goes_on_when_another_comes(tmp_path: Path) -> None:
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
        assert re.search(r"\S+ died.*(another takes its place|all roles begin again|left out)", log), log
        assert_whole(command.out, steps)
        note("a node removed, another added 5 s later", 1, seconds, f"{command.lost_updates(at)} updates", "finished")
    finally:
        cluster.shutdown()
