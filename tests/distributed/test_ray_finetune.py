"""Fine-tuning on a real local Ray."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prelar_ray.storage.run_folder import RunFolder
from tests.faults.runs import Command

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.mark.nightly
@pytest.mark.render
def test_a_setting_that_only_a_role_can_check_is_refused_as_all_others_are(tmp_path: Path, shared_ray: Cluster) -> None:
    command = Command(tmp_path, "env.task=metaworld/reach-v3", "env.camera=nowhere", ray=shared_ray)
    assert command.process.wait(timeout=240) == 2, command.log.read_text()
    assert re.search(r"^error: env\.camera=nowhere: .*no such camera", command.log.read_text(), re.MULTILINE)


def test_an_address_joins_a_cluster_that_is_there_and_is_refused_where_none_is(
    tmp_path: Path, shared_ray: Cluster
) -> None:
    alive = len(shared_ray.head_node.live_processes())
    command = Command(tmp_path, "finetune.env_steps=1000", ray=shared_ray)
    command.finish()
    assert RunFolder.open(command.out).info["summary"]["updates"] == 4 + (1000 - 800) // 10
    assert len(shared_ray.head_node.live_processes()) == alive, "a cluster that was joined is left as it was"
    refused = tmp_path / "refused"
    refused.mkdir()
    late = Command(refused, "cluster=127.0.0.1:1")
    assert late.process.wait(timeout=240) == 1, late.log.read_text()
    assert "error: cluster=127.0.0.1:1: cannot connect" in late.log.read_text()
