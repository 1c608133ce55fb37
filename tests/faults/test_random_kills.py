"""Processes of one run killed again and again, at random but seeded."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psutil
import pytest

from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics
from tests.faults.runs import Command, gone, note, shared_memory

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.nightly, pytest.mark.timeout(1500)]

KILLS = 20
SETTLED_SECONDS = 10.0
ENV_STEPS = 24_000
UPDATES = 4 + (ENV_STEPS - 800) // 10


def victims(command: Command) -> list[psutil.Process]:
    """Roles that have been up for a while: dying at once again and again is another fault."""
    roles = command.roles("Collector", "Evaluator", "ReplayShard", "FinetuneLearnerRole")
    return [process for process in roles if time.time() - process.create_time() > SETTLED_SECONDS]


def test_a_run_survives_twenty_kills_and_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    rng = random.Random(0)
    lengths = (f"finetune.env_steps={ENV_STEPS}", "replay.capacity_steps=50000", "evaluation.every_env_steps=4000")
    command = Command(tmp_path, *lengths)
    family: dict[int, psutil.Process] = {}
    recovery: list[float] = []
    stores = shared_memory()
    for _ in range(KILLS):
        reached = command.updates()
        command.wait_for(lambda goal=reached + 20: command.updates() >= goal and len(victims(command)) > 0)
        family |= {process.pid: process for process in command.family()}
        victim = rng.choice(victims(command))
        recovery.append(command.kill(victim))
        time.sleep(rng.uniform(0, 2))
    command.process.wait(timeout=900)
    log = command.log.read_text()
    assert command.process.returncode == 0, log
    run = RunFolder.open(command.out)
    assert run.info["status"] == "finished"
    assert run.info["summary"]["updates"] == UPDATES == CheckpointStore(run.checkpoints, 3).latest().update
    rows = [row for row in read_metrics(run.metrics_path) if "loss/total" in row]
    for name in ("update", "env_steps"):
        values = [row[name] for row in rows]
        assert values == sorted(values)
    assert all(row["update"] <= 4 + max(0, row["env_steps"] - 800) // 10 for row in rows), "the replay ratio is kept"
    episodes = EpisodeStore(run.replay).load_all()
    assert len({episode.key for episode in episodes}) == len(episodes)
    assert 50 <= len(episodes) <= ENV_STEPS // 100
    for env in range(4):  # an episode that finished was taken in: only those cut off by a kill leave no file
        numbers = sorted(episode.number for episode in episodes if episode.env_index == env)
        assert numbers == list(range(len(numbers)))
    told = ("it is replaced", "this evaluation is left out", "all roles restart")
    assert sum(map(log.count, told)) >= KILLS - 3
    assert gone(list(family.values()))
    assert shared_memory() <= stores
    note("random SIGKILLs of roles in one run", KILLS, max(recovery), "open episodes, evaluations", "finished, whole")
