"""A fine-tuning run in a process of its own, what is done to it, and what became of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

SETTINGS = """
preset: tiny
dashboard: false
threads: 1
world_model:
  encoder: {depth: 2, layers: 1, stacks: 1}
  decoder: {depth: 2, layers: 1, stacks: 1}
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
RAYS_OWN = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Processes of a Ray beside those of roles, by their titles."""

ENV_STEPS = 2400
UPDATES = 4 + (ENV_STEPS - 800) // 10


class Command:
    """`prelar-ray finetune` in a process of its own; it starts a Ray, unless there is one for it to join."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        out: Path | None = None,
        ray: Cluster | None = None,
        **environment: str,
    ) -> None:
        settings = folder / "settings.yaml"
        settings.write_text(SETTINGS)
        self.out = out or folder / "run"
        self.log = folder / f"log-{len(list(folder.glob('log-*')))}.txt"
        self.ray = ray
        command = [sys.executable, "-m", "prelar_ray", "finetune", "--config", str(settings), "--out", str(self.out)]
        if ray:
            command.append(f"cluster={ray.address}")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *options], stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
            )

    def family(self) -> list[psutil.Process]:
        """Every process that the command started: all of its Ray, or its roles on the one that it joined."""
        own = psutil.Process(self.process.pid).children(recursive=True)
        if self.ray is None:
            return own
        raylet = dict(self.ray.head_node.live_processes())["raylet"].pid
        return own + [process for process in psutil.Process(raylet).children() if _holds_a_role(process)]

    def roles(self, *kinds: str) -> list[psutil.Process]:
        """Those of the family that hold a role of these kinds, such as ``Collector``; or run such a program."""
        found = []
        for process in self.family():
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if any(f"ray::{kind}" in line or f"/{kind}" in line.split(" ")[0] for kind in kinds):
                found.append(process)
        return found

    def wait_for(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended early:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"waited in vain:\n{self.log.read_text()}"
            time.sleep(0.1)

    def updates(self) -> int:
        path = self.out / "metrics.jsonl"
        rows = read_metrics(path) if path.exists() else []
        return int(rows[-1]["update"] or 0) if rows else 0

    def reach(self, updates: int) -> None:
        self.wait_for(lambda: self.updates() >= updates)

    def kill(self, victim: psutil.Process) -> float:
        """SIGKILL a role; seconds until the run, having noticed, has a line of metrics beyond where it was."""
        reached, deaths, began = self.updates(), self.deaths(), time.monotonic()
        victim.kill()
        self.wait_for(lambda: self.deaths() > deaths)
        noticed = time.time()  # lines before are of updates that were under way
        self.wait_for(lambda: self.updates() > reached and self.last_line() > noticed)
        return time.monotonic() - began

    def deaths(self) -> int:
        """Deaths of roles that the run spoke of."""
        return len(re.findall(r"(?:collector|evaluator|learner|replay)\S* died", self.log.read_text()))

    def last_line(self) -> float:
        """When the last line of metrics was written, seconds since 1970."""
        return float(read_metrics(self.out / "metrics.jsonl")[-1]["time"] or 0)

    def finish(self) -> None:
        assert self.process.wait(timeout=400) == 0, self.log.read_text()

    def lost_updates(self, at: int) -> int:
        """Updates to be made again, where all roles began again at a checkpoint after a fault at update ``at``."""
        begun = re.findall(r"restart at the checkpoint of update (\d+)", self.log.read_text())
        return max((at - int(update) for update in begun), default=0)


def _holds_a_role(process: psutil.Process) -> bool:
    try:
        name = process.cmdline()[0]
    except (psutil.Error, IndexError):
        return False
    return name.startswith("ray::") and not name.startswith(RAYS_OWN)


def assert_whole(out: Path, env_steps: int = ENV_STEPS) -> None:
    """The run made every step and update, once each."""
    run = RunFolder.open(out)
    updates = 4 + (env_steps - 800) // 10
    assert run.info["status"] == "finished"
    assert env_steps <= run.info["summary"]["env_steps"] < env_steps + 2 * 2
    assert run.info["summary"]["updates"] == updates
    rows = [row for row in read_metrics(run.metrics_path) if "loss/total" in row]
    made = [row["update"] for row in rows]
    steps = [row["env_steps"] for row in rows]
    assert made == sorted(set(made))
    assert steps == sorted(steps)
    for update, step in zip(made, steps, strict=True):
        assert update <= 4 + max(0, step - 800) // 10  # never ahead of the steps that pay for it
    folders = list(run.replay.glob("shard-*")) or [run.replay]
    keys = [key for folder in folders for key in EpisodeStore(folder).keys()]
    assert len(keys) == len(set(keys))
    assert CheckpointStore(run.checkpoints, 3).latest().update == updates


def gone(processes: list[psutil.Process], seconds: float = 60) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def shared_memory() -> set[str]:
    """Object stores of Ray."""
    return {path.name for path in Path("/dev/shm").glob("plasma*")}


def note(fault: str, times: int, recovery: float | None, lost: str, final: str) -> None:
    """Add a row to the table of faults, if a file for it is named in ``FAULT_TABLE``."""
    if path := os.environ.get("FAULT_TABLE"):
        row = {"fault": fault, "times": times, "seconds_to_recovery": recovery, "lost": lost, "final": final}
        with Path(path).open("a") as file:
            file.write(json.dumps(row) + "\n")
