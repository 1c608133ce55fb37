"""``--method rllib/NAME``: the command that trains it, and those that refuse it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prelar_ray.baselines.checkpoints import load
from prelar_ray.commands import diagnose, evaluate, finetune, pretrain
from prelar_ray.storage.records import RLLIB_META
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

Refused = Callable[..., str]

SETTINGS = [
    *("--preset", "tiny", "--method", "rllib/PPO", "dashboard=false", "threads=1", "collect.envs_per_collector=2"),
    *("rllib.training.train_batch_size_per_learner=400", "rllib.training.minibatch_size=200"),
    *("rllib.training.num_epochs=1", "rllib.model.conv_filters=[[2,8,8]]", "rllib.model.fcnet_hiddens=[8]"),
    *("evaluation.episodes=2", "checkpoint.every_updates=1"),
]


def test_what_makes_no_sense_for_a_baseline_is_refused(tmp_path: Path, pretrained: Path, refused: Refused) -> None:
    line = ["--preset", "tiny", "--method", "rllib/PPO", "--out", tmp_path / "run"]
    error = refused(pretrain.main, *line, "--videos", tmp_path, code=2)
    assert error == (
        "error: method rllib/PPO learns from scratch, there is nothing to pre-train; start with finetune, or choose a "
        "--method that pre-trains\n"
    )
    error = refused(finetune.main, *line, "--init", pretrained, code=2)
    assert error == f"error: --init {pretrained}: method rllib/PPO learns from scratch; leave --init out\n"
    error = refused(finetune.main, *line, "cluster=none", code=2)
    assert error == "error: cluster=none: PPO of RLlib needs Ray; use cluster=auto\n"
    for more in ([], ["--dry-run"]):
        error = refused(finetune.main, *line, "rllib.training.leer=1", *more, code=2)
        assert error == "error: rllib.training.leer: PPO of RLlib has no such setting; nearest: lr\n"
    assert not (tmp_path / "run").exists()


def test_commands_that_read_the_package_s_own_checkpoints_refuse_those_of_a_baseline(
    tmp_path: Path, refused: Refused
) -> None:
    saved = tmp_path / "run" / "checkpoints" / "000000003"
    saved.mkdir(parents=True)
    (saved / RLLIB_META).write_text("{}")
    for main in (evaluate.main, diagnose.main):
        error = refused(main, tmp_path / "run", code=2)
        assert error.startswith(f"error: {saved}: of an RLlib algorithm, which only `prelar-ray finetune --resume`")


def test_a_dry_run_prints_the_configuration_without_networks_that_are_not_built(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert finetune.main([*SETTINGS, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "method: rllib/PPO" in said
    assert "networks: those of PPO in RLlib" in said
    assert "memory" not in said


@pytest.mark.nightly
@pytest.mark.cluster
def test_the_command_trains_until_ctrl_c_and_continues_with_resume(tmp_path: Path, shared_ray: Cluster) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "prelar_ray", "finetune", "--out", str(out), f"cluster={shared_ray.address}"]
    line = [*command, *SETTINGS, "finetune.env_steps=1000000"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (out / "metrics.jsonl").exists() or not read_metrics(out / "metrics.jsonl"):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert error.endswith(f"next: prelar-ray finetune --resume --out {out}\ninterrupted\n")
    assert "Traceback" not in error
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    kept = RunFolder.open(out).last_checkpoint()
    assert kept is not None
    reached = load(kept).counters
    assert reached.update >= 1
    more = reached.agent_steps + 800
    line = [*command, "--resume", f"finetune.env_steps={more}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith(f"fine-tuned: {out}\nnext: prelar-ray report {out}\n")
    info = RunFolder.open(out).info
    assert (info["status"], info["summary"]["env_steps"]) == ("finished", more)
    updates = [row["update"] for row in read_metrics(out / "metrics.jsonl") if "rllib/total_loss" in row]
    assert updates == list(range(1, len(updates) + 1))
