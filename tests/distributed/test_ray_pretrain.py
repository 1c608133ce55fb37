"""Pre-training by several ranks on a real local Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

SETTINGS = """
preset: tiny
dashboard: false
threads: 1
learner: {ranks: 2}
world_model:
  encoder: {depth: 2, layers: 1, stacks: 1}
  decoder: {depth: 2, layers: 1, stacks: 1}
  rssm: {deter: 8, hidden: 8, stoch: 2, classes: 2}
record: {episodes_per_task: 12, frames_per_episode: 20}
pretrain: {updates: 12, batch_size: 4, segment_length: 5, validation_every_updates: 6}
checkpoint: {every_updates: 4}
telemetry: {every_updates: 4}
"""


def call(folder: Path, command: str, *options: str) -> str:
    settings = folder / "settings.yaml"
    settings.write_text(SETTINGS)
    line = [sys.executable, "-m", "prelar_ray", command, "--config", str(settings), *options]
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_two_ranks_pretrain_together_and_one_resumes_alone(tmp_path: Path, shared_ray: Cluster) -> None:
    joining = ("--videos", "videos", "--out", "run", f"cluster={shared_ray.address}")
    call(tmp_path, "record", "--out", "videos")
    said = call(tmp_path, "pretrain", *joining)
    assert "2 learner (" in said
    run = RunFolder.open(tmp_path / "run")
    assert run.info["summary"]["updates"] == 12
    state = CheckpointStore(run.checkpoints, 3).latest().state
    assert len(state["noise"]["generator"]) == 2
    validated = [row["update"] for row in read_metrics(run.metrics_path) if "validation/total" in row]
    assert validated == [6, 12]
    call(tmp_path, "pretrain", *joining, "--resume", "learner.ranks=1", "pretrain.updates=16")
    assert RunFolder.open(tmp_path / "run").info["summary"]["updates"] == 16
