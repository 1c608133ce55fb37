"""Fine-tuning on a real local Ray, with real kills."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SETTINGS = """
preset: tiny
dashboard: false
threads: 1
world_model:
  encoder: {depth: 2}
  decoder: {depth: 2}
  rssm: {deter: 8, hidden: 8, stoch: 2, classes: 2}
finetune: {env_steps: 2400, random_steps: 800, initial_updates: 4, env_steps_per_update: 10, batch_size: 2,
           segment_length: 8}
behaviour: {horizon: 3}
collect: {collectors: 2, envs_per_collector: 2, request_steps: 20}
replay: {tolerance_updates: 8}
evaluation: {episodes: 2, every_env_steps: 1000, envs: 2}
checkpoint: {every_updates: 20}
telemetry: {every_updates: 10}
"""
UPDATES = 4 + (2400 - 800) // 10


class Command:
    """`prelar-ray finetune` in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        settings = folder / "settings.yaml"
        settings.write_text(SETTINGS)
        self.out = folder / "run"
        self.log = folder / f"log-{len(list(folder.glob('log-*')))}.txt"
        command = [sys.executable, "-m", "prelar_ray.finetune", "--config", str(settings), "--out", str(self.out)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *options], stdout=log, stderr=subprocess.STDOUT)

    def family(self) -> list[psutil.Process]:
        """Every process that the command started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended early:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"waited in vain:\n{self.log.read_text()}"
            time.sleep(0.2)

    def updates(self) -> int:
        path = self.out / "metrics.jsonl"
        rows = read_metrics(path) if path.exists() else []
        return int(rows[-1]["update"] or 0) if rows else 0

    def finish(self) -> None:
        assert self.process.wait(timeout=400) == 0, self.log.read_text()


def assert_whole(out: Path) -> None:
    """The run made every step and update, once each."""
    run = RunFolder.open(out)
    assert run.info["status"] == "finished"
    assert 2400 <= run.info["summary"]["env_steps"] < 2400 + 2 * 2
    assert run.info["summary"]["updates"] == UPDATES
    rows = [row for row in read_metrics(run.metrics_path) if "loss/total" in row]
    updates = [row["update"] for row in rows]
    steps = [row["env_steps"] for row in rows]
    assert updates == sorted(set(updates))
    assert steps == sorted(steps)
    for update, step in zip(updates, steps, strict=True):
        assert update <= 4 + max(0, step - 800) // 10  # never ahead of the steps that pay for it
    keys = EpisodeStore(run.replay).keys()
    assert len(keys) == len(set(keys))
    assert CheckpointStore(run.checkpoints, 3).latest().update == UPDATES


def gone(processes: list[psutil.Process], seconds: float = 60) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_killed_collector_is_replaced_and_the_run_completes(tmp_path: Path) -> None:
    command = Command(tmp_path)
    command.wait_for(lambda: command.updates() >= 20)
    family = command.family()
    victims = [process for process in family if "ray::Collector" in " ".join(process.cmdline())]
    assert len(victims) == 2
    victims[0].send_signal(signal.SIGKILL)
    command.finish()
    assert re.search(r"collector-\d died.*another takes its place", command.log.read_text())
    assert_whole(command.out)
    assert gone(family)


def test_a_collector_that_hangs_is_replaced_and_the_run_completes(tmp_path: Path) -> None:
    command = Command(tmp_path, "collect.timeout=5")
    command.wait_for(lambda: command.updates() >= 20)
    family = command.family()
    victims = [process for process in family if "ray::Collector" in " ".join(process.cmdline())]
    victims[0].send_signal(signal.SIGSTOP)
    command.finish()
    assert re.search(r"collector-\d died: no answer for collect\.timeout=5 s; another", command.log.read_text())
    assert_whole(command.out)
    assert gone(family)


def test_a_killed_driver_leaves_no_process_and_resume_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    command = Command(tmp_path)
    command.wait_for(lambda: command.updates() >= 60)
    family = command.family()
    command.process.send_signal(signal.SIGKILL)
    command.process.wait()
    assert gone(family, seconds=150)  # Ray's own agents give their dead head a minute
    reached = CheckpointStore(command.out / "checkpoints", 3).latest()
    assert reached.update >= 20
    resumed = Command(tmp_path, "--resume")
    resumed.finish()
    first = next(row for row in read_metrics(resumed.out / "metrics.jsonl") if row["update"] > reached.update)
    assert first["env_steps"] >= reached.counters["replay"]["env_steps"]
    assert first["replay/episodes"] >= 1
    assert_whole(resumed.out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_kill_save_exit_with_130_and_leave_no_process(tmp_path: Path, number: signal.Signals) -> None:
    command = Command(tmp_path)
    command.wait_for(lambda: command.updates() >= 30)
    family = command.family()
    os.kill(command.process.pid, number)
    assert command.process.wait(timeout=120) == 130, command.log.read_text()
    assert "Traceback" not in command.log.read_text()
    assert gone(family)
    assert json.loads((command.out / "run.json").read_text())["status"] == "interrupted"
    assert CheckpointStore(command.out / "checkpoints", 3).latest().update >= 30


def test_a_killed_learner_stops_the_run_with_its_name_and_resume_finishes_it(tmp_path: Path) -> None:
    command = Command(tmp_path)
    command.wait_for(lambda: command.updates() >= 40)
    family = command.family()
    victims = [process for process in family if "LearnerRole" in " ".join(process.cmdline())]
    assert len(victims) == 1
    victims[0].send_signal(signal.SIGKILL)
    assert command.process.wait(timeout=120) == 1, command.log.read_text()
    assert "error: learner died" in command.log.read_text()
    assert gone(family)
    Command(tmp_path, "--resume").finish()
    assert_whole(command.out)


def test_two_ranks_share_a_run_and_the_death_of_one_is_told_by_name(tmp_path: Path) -> None:
    command = Command(tmp_path, "learner.ranks=2", "pretrain.batch_size=4")
    command.wait_for(lambda: command.updates() >= 40)
    family = command.family()
    victims = [process for process in family if "LearnerRole" in " ".join(process.cmdline())]
    assert len(victims) == 2
    victims[1].send_signal(signal.SIGKILL)
    assert command.process.wait(timeout=120) == 1, command.log.read_text()
    assert re.search(r"error: learner-\d died", command.log.read_text()), command.log.read_text()
    assert gone(family)
    Command(tmp_path, "--resume").finish()
    assert_whole(command.out)
    rows = [row for row in read_metrics(command.out / "metrics.jsonl") if "loss/total" in row]
    assert all("grad_norm/actor" in row for row in rows)
    Command(tmp_path, "--resume", "learner.ranks=1", "finetune.env_steps=2600").finish()  # one goes on where two were


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
