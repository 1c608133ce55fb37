"""Runs as trials of a real Ray Tune."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray import tune

from prelar_ray.config import load_config
from prelar_ray.distributed.ray_backend import cluster_nodes
from prelar_ray.distributed.resources import Resources
from prelar_ray.distributed.trial import Trial, trial_settings
from prelar_ray.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics
from tests.faults.runs import SETTINGS, assert_whole, gone

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(SETTINGS)
    return path


def test_a_trial_asks_for_a_place_for_itself_and_every_role(settings: Path, tmp_path: Path) -> None:
    wanted = trial_settings(load_config(None, settings), "finetune", tmp_path / "run", [Resources(64, 0, 64)])
    request = Trial.default_resource_request(wanted)
    assert [bundle["CPU"] for bundle in request.bundles] == [0.01, 1, 0.5, 1, 1, 1]
    assert request.strategy == "PACK"


def test_a_trial_whose_process_is_killed_goes_on_from_the_checkpoint_of_its_run(settings: Path, tmp_path: Path) -> None:
    config, out = load_config(None, settings), tmp_path / "run"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        wanted = trial_settings(config, "finetune", out, cluster_nodes())
        tuner = tune.Tuner(
            Trial,
            param_space=wanted,
            run_config=tune.RunConfig(
                name="study",
                storage_path=str(tmp_path / "tune"),
                callbacks=[_KillOnce(out)],
                failure_config=tune.FailureConfig(max_failures=2),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=3),
                verbose=0,
            ),
        )
        (result,) = tuner.fit()
        assert result.error is None
        assert result.metrics is not None
        assert result.metrics["done"]
        assert result.metrics["update"] == 4 + (2400 - 800) // 10
        assert result.metrics["evaluation/return_mean"] > 0
        assert _KillOnce.killed > 30
        run = RunFolder.open(out)
        assert len(run.info["resumed"]) == 1
        assert_whole(out)
        roles = [process for process in psutil.process_iter() if _is_role(process)]
        assert gone(roles)
    finally:
        ray.shutdown()


def _is_role(process: psutil.Process) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(f"ray::{kind}" in line for kind in ("Trial", "Collector", "Replay", "Evaluator", "FinetuneLearnerRole"))


class _KillOnce(tune.Callback):
    """Kills the trial's own process once it has learnt something."""

    killed = 0

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_trial_result(self, iteration: int, trials: list[tune.Trainable], trial: object, result: dict, **_: object):
        if result.get("update", 0) > 30 and not _KillOnce.killed:
            _KillOnce.killed = int(result["update"])
            (victim,) = (p for p in psutil.process_iter() if "ray::Trial" in " ".join(p.cmdline()))
            victim.send_signal(signal.SIGKILL)
            time.sleep(1)
            assert read_metrics(self.out / "metrics.jsonl")
