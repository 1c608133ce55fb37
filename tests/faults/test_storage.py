"""Disks that fill up, files that are cut off, object stores that are too small."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from prelar_ray.checkpoint.store import CheckpointStore
from tests.faults.runs import Command, assert_whole, gone, note

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.nightly, pytest.mark.timeout(600)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 60 MB; mounting one takes root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_ends_the_run_with_its_name_and_resume_finishes_it_once_there_is_room(
    tmp_path: Path, small_disk: Path
) -> None:
    command = Command(tmp_path, out=small_disk / "run")
    command.reach(60)
    family = command.family()
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(80 * 2**20))
    assert command.process.wait(timeout=120) == 2, command.log.read_text()
    log = command.log.read_text()
    assert re.search(rf"^error: {small_disk}/run/\S+: .*(disk is full|No space left)", log, re.MULTILINE), log
    assert gone(family)
    reached = CheckpointStore(command.out / "checkpoints", 3).latest().update
    assert reached >= 20
    filler.unlink()
    Command(tmp_path, "--resume", out=command.out).finish()
    assert_whole(command.out)
    note("full disk under the run folder, then --resume", 1, None, "since the last checkpoint", "finished, whole")


def test_a_checkpoint_cut_off_at_any_byte_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    command = Command(tmp_path)
    command.reach(80)
    family = command.family()
    command.process.send_signal(signal.SIGKILL)
    command.process.wait()
    assert gone(family, seconds=150)
    *_, before, newest = CheckpointStore(command.out / "checkpoints", 3).paths()
    state = newest / "state.pt"
    os.truncate(state, random.Random(0).randrange(state.stat().st_size))
    resumed = Command(tmp_path, "--resume")
    resumed.finish()
    log = resumed.log.read_text()
    assert re.search(rf"{newest.name}/state\.pt: checksum differs .*trying the one before", log), log
    first = int(before.name)
    assert first < int(newest.name)
    assert_whole(resumed.out)
    note("newest checkpoint truncated at a random byte", 1, None, "back to the one before", "finished, whole")


def test_batches_larger_than_the_object_store_are_spilled(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    store = 80 * 2**20  # Ray's least is 75 MiB; three batches of 45 MB are under way
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "object_store_memory": store})
    try:
        command = Command(
            tmp_path,
            f"cluster={cluster.address}",
            "finetune.batch_size=74",
            "finetune.segment_length=50",
            "finetune.env_steps=1000",
            "finetune.initial_updates=4",
            "behaviour.horizon=2",
        )
        command.finish()
        assert_whole(command.out, 1000)
    finally:
        cluster.shutdown()
    note("object store of 80 MiB, batches of 45 MB", 1, None, "nothing", "finished, whole")
