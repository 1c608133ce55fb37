"""SIGKILL and SIGSTOP of every process of a run."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.telemetry.writers import read_metrics
from tests.faults.runs import Command, assert_whole, gone, note, shared_memory

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(600)]


# What the loop does about a death is in tests/training; here are the processes, and nightly those of every kind.
@pytest.mark.parametrize(
    ("kind", "said", "lost"),
    [
        ("Collector", r"collector-\d died.*it is replaced", "its open episodes"),
        pytest.param(
            "Evaluator", r"evaluator died.*this evaluation is left out", "one evaluation", marks=pytest.mark.nightly
        ),
        pytest.param("FinetuneLearnerRole", r"learner died.*all roles restart", "", marks=pytest.mark.nightly),
        pytest.param("ReplayShard", r"replay died.*all roles restart", "", marks=pytest.mark.nightly),
    ],
)
def test_a_role_that_is_killed_is_replaced_and_the_run_completes(
    tmp_path: Path, shared_ray: Cluster, kind: str, said: str, lost: str
) -> None:
    command = Command(tmp_path, ray=shared_ray)
    command.reach(40)
    family = command.family()
    (victim, *_) = command.roles(kind)
    at = command.updates()
    seconds = command.kill(victim)
    again = command.family()
    command.finish()
    assert re.search(said, command.log.read_text()), command.log.read_text()
    assert_whole(command.out)
    assert gone(family + again)
    updates = command.lost_updates(at)
    assert updates <= 20 + 10, "no more than was learnt since the last checkpoint"
    note(f"SIGKILL of {kind}", 1, seconds, lost or f"{updates} updates, made again", "finished, whole")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("kind", "said"), [("FinetuneLearnerRole", r"learner-\d died"), ("ReplayShard", "replay-1 died")]
)
def test_ranks_and_shards_share_a_run_that_survives_the_death_of_one(
    tmp_path: Path, shared_ray: Cluster, kind: str, said: str
) -> None:
    command = Command(tmp_path, "learner.ranks=2", "pretrain.batch_size=4", "replay.shards=2", ray=shared_ray)
    command.reach(40)
    family = command.family()
    assert len(command.roles("FinetuneLearnerRole")) == len(command.roles("ReplayShard")) == 2
    at = command.updates()
    seconds = command.kill(command.roles(kind)[-1])
    command.finish()
    assert re.search(rf"{said}.*all roles restart", command.log.read_text()), command.log.read_text()
    assert_whole(command.out)
    assert gone(family)
    note(f"SIGKILL of one of two: {kind}", 1, seconds, f"{command.lost_updates(at)} updates, made again", "whole")


@pytest.mark.nightly
def test_one_rank_resumes_where_two_were(tmp_path: Path, shared_ray: Cluster) -> None:
    two = ("learner.ranks=2", "pretrain.batch_size=4", "replay.shards=2", "finetune.env_steps=1200")
    Command(tmp_path, *two, ray=shared_ray).finish()
    again = ("--resume", "learner.ranks=1", "replay.shards=2", "finetune.env_steps=1600")
    resumed = Command(tmp_path, *again, ray=shared_ray)
    resumed.finish()
    assert_whole(resumed.out, 1600)


@pytest.mark.nightly
def test_a_role_that_dies_again_and_again_ends_the_run_by_name(tmp_path: Path, shared_ray: Cluster) -> None:
    command = Command(tmp_path, "checkpoint.every_updates=1000", "evaluation.every_env_steps=100000", ray=shared_ray)
    command.wait_for((command.out / "checkpoints" / "000000000" / "meta.json").exists)
    for _ in range(4):
        command.wait_for(lambda: len(command.roles("ReplayShard")) == 1 and len(command.roles("Collector")) == 2)
        (victim,) = command.roles("ReplayShard")
        victim.send_signal(signal.SIGKILL)
        gone([victim])
    assert command.process.wait(timeout=120) == 1, command.log.read_text()
    assert "error: replay died" in command.log.read_text()


@pytest.mark.nightly
def test_a_collector_that_hangs_is_replaced_and_the_run_completes(tmp_path: Path, shared_ray: Cluster) -> None:
    command = Command(tmp_path, "collect.timeout=5", ray=shared_ray)
    command.reach(20)
    family = command.family()
    command.roles("Collector")[0].send_signal(signal.SIGSTOP)
    command.finish()
    assert re.search(r"collector-\d died: no answer for collect\.timeout=5 s; it is replaced", command.log.read_text())
    assert_whole(command.out)
    assert gone(family)


@pytest.mark.nightly
def test_a_collector_that_stands_still_for_a_minute_holds_nobody_up(tmp_path: Path, shared_ray: Cluster) -> None:
    steps = 8000
    command = Command(tmp_path, f"finetune.env_steps={steps}", "evaluation.every_env_steps=4000", ray=shared_ray)
    command.reach(20)
    (victim, *_) = command.roles("Collector")
    reached, began = command.updates(), time.monotonic()
    victim.send_signal(signal.SIGSTOP)
    command.reach(reached + 1)
    seconds = time.monotonic() - began
    time.sleep(60 - seconds)
    made = command.updates() - reached
    victim.send_signal(signal.SIGCONT)
    command.finish()
    assert_whole(command.out, steps)
    assert "died" not in command.log.read_text()
    assert made > 100, "the other collector and the learner went on"
    note("SIGSTOP of a collector for 60 s", 1, seconds, "nothing", f"finished, whole; {made} updates meanwhile")


@pytest.mark.parametrize("joined", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_a_killed_driver_leaves_no_process_and_resume_continues_from_its_checkpoint(
    tmp_path: Path, shared_ray: Cluster, joined: bool
) -> None:
    """No role on a Ray that it joined; and nothing of one that it started, whose agents take a minute to notice."""
    stores = shared_memory()
    command = Command(tmp_path, ray=shared_ray if joined else None)
    command.reach(60)
    family = command.family()
    at = command.updates()
    command.process.send_signal(signal.SIGKILL)
    command.process.wait()
    assert gone(family, seconds=150)
    assert shared_memory() <= stores
    reached = CheckpointStore(command.out / "checkpoints", 3).latest()
    assert reached.update >= 20
    began = time.monotonic()
    resumed = Command(tmp_path, "--resume", ray=shared_ray)
    resumed.reach(at + 1)
    seconds = time.monotonic() - began
    resumed.finish()
    first = next(row for row in read_metrics(resumed.out / "metrics.jsonl") if row["update"] > reached.update)
    assert first["env_steps"] >= reached.counters["replay"][0]["env_steps"]
    assert first["replay/episodes"] >= 1
    assert_whole(resumed.out)
    note("SIGKILL of the driver, then --resume", 1, seconds, f"{at - reached.update} updates, made again", "whole")


@pytest.mark.nightly
def test_a_ray_that_is_killed_whole_ends_the_run_and_resume_finishes_it(tmp_path: Path) -> None:
    command = Command(tmp_path)
    command.reach(60)
    family = command.family()
    at = command.updates()
    for process in command.roles("gcs_server", "raylet"):
        process.send_signal(signal.SIGKILL)
    assert command.process.wait(timeout=240) != 0, command.log.read_text()
    assert gone(family, seconds=150)
    reached = CheckpointStore(command.out / "checkpoints", 3).latest().update
    began = time.monotonic()
    resumed = Command(tmp_path, "--resume")
    resumed.reach(at + 1)
    seconds = time.monotonic() - began
    resumed.finish()
    assert_whole(resumed.out)
    note("SIGKILL of Ray's head and raylet, then --resume", 1, seconds, f"{at - reached} updates, made again", "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_ctrl_c_and_kill_save_exit_with_130_and_leave_no_process(tmp_path: Path, number: signal.Signals) -> None:
    stores = shared_memory()
    command = Command(tmp_path)
    command.reach(30)
    family = command.family()
    os.kill(command.process.pid, number)
    assert command.process.wait(timeout=120) == 130, command.log.read_text()
    assert "Traceback" not in command.log.read_text()
    assert gone(family)
    assert shared_memory() <= stores
    assert json.loads((command.out / "run.json").read_text())["status"] == "interrupted"
    assert CheckpointStore(command.out / "checkpoints", 3).latest().update >= 30
