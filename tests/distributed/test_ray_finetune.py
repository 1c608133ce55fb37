"""Fine-tuning on a real local Ray."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prelar_ray.storage.run_folder import RunFolder
from tests.faults.runs import Command

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.mark.render
def test_a_setting_that_only_a_role_can_check_is_refused_as_all_others_are(tmp_path: Path) -> None:
    command = Command(tmp_path, "env.task=metaworld/reach-v3", "env.camera=nowhere")
    assert command.process.wait(timeout=240) == 2, command.log.read_text()
    assert re.search(r"^error: env\.camera=nowhere: .*no such camera", command.log.read_text(), re.MULTILINE)


def test_an_address_joins_a_cluster_that_is_there_and_is_refused_where_none_is(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    try:
        alive = len(cluster.head_node.live_processes())
        command = Command(tmp_path, f"cluster={cluster.address}", "finetune.env_steps=1000")
        command.finish()
        assert RunFolder.open(command.out).info["summary"]["updates"] == 4 + (1000 - 800) // 10
        assert len(cluster.head_node.live_processes()) == alive, "a cluster that was joined is left as it was"
    finally:
        cluster.shutdown()
    refused = tmp_path / "refused"
    refused.mkdir()
    late = Command(refused, f"cluster={cluster.address}")
    assert late.process.wait(timeout=240) == 1, late.log.read_text()
    assert f"error: cluster={cluster.address}: cannot connect" in late.log.read_text()
