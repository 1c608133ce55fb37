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
from prelar_ray.distributed.local_ray import start_local_ray
from prelar_ray.distributed.ray_backend import cluster_nodes
from prelar_ray.distributed.resources import Resources
from prelar_ray.errors import ConfigError, ResourceError, UsageError
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.study.trial import Trial, trial_settings
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
    assert request.strategy == "STRICT_PACK"  # beside its learner


BASELINE = [
    *("method=rllib/PPO", "dashboard=false", "threads=1", "finetune.env_steps=1200", "collect.envs_per_collector=2"),
    *("rllib.training.train_batch_size_per_learner=400", "rllib.training.minibatch_size=200"),
    *("rllib.training.num_epochs=1", "rllib.model.conv_filters=[[2,8,8]]", "rllib.model.fcnet_hiddens=[8]"),
    *("rllib.env_runners=1", "checkpoint.every_updates=1", "evaluation.episodes=2", "evaluation.every_env_steps=400"),
]
"""Three iterations of a minute PPO with an env runner of its own."""


def test_a_baseline_s_trial_is_the_algorithm_s_own_process_beside_its_env_runners(tmp_path: Path) -> None:
    config = load_config("tiny", None, BASELINE)
    wanted = trial_settings(config, "finetune", tmp_path / "run", [Resources(64, 0)])
    assert [bundle["CPU"] for bundle in Trial.default_resource_request(wanted).bundles] == [1, 1]
    with pytest.raises(ResourceError, match="algorithm needs 65 CPU"):
        trial_settings(
            load_config(None, None, ["learner.cpus=65"], base=config), "finetune", tmp_path, [Resources(64, 0)]
        )


def test_a_baseline_s_trial_is_refused_what_it_cannot_do(tmp_path: Path) -> None:
    config = load_config("tiny", None, BASELINE)
    with pytest.raises(UsageError, match="method rllib/PPO learns from scratch"):
        trial_settings(config, "pretrain", tmp_path, [Resources(64, 0)])
    with pytest.raises(UsageError, match="without init"):
        trial_settings(config, "finetune", tmp_path, [Resources(64, 0)], init=tmp_path)
    unknown = load_config(None, None, ["rllib.training.leer=1"], base=config)
    with pytest.raises(ConfigError, match="rllib.training.leer: PPO of RLlib has no such setting"):
        trial_settings(unknown, "finetune", tmp_path, [Resources(64, 0)])


@pytest.mark.nightly
def test_a_baseline_is_a_trial_as_any_other_method_is(tmp_path: Path) -> None:
    out = tmp_path / "run"
    start_local_ray(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        wanted = trial_settings(load_config("tiny", None, BASELINE), "finetune", out, cluster_nodes())
        storage = tune.RunConfig(name="study", storage_path=str(tmp_path / "tune"), verbose=0)
        (result,) = tune.Tuner(Trial, param_space=wanted, run_config=storage).fit()
        assert result.error is None
        assert result.metrics is not None
        assert (result.metrics["update"], result.metrics["env_steps"]) == (3, 1200)
        assert result.metrics["evaluation/return_mean"] > 0
        run = RunFolder.open(out)
        assert run.info["status"] == "finished"
        assert [row.env_steps for row in run.evaluations()] == [400, 800, 1200]
    finally:
        ray.shutdown()


@pytest.mark.nightly
def test_a_trial_whose_process_is_killed_resumes_from_the_checkpoint_of_its_run(settings: Path, tmp_path: Path) -> None:
    config, out = load_config(None, settings), tmp_path / "run"
    start_local_ray(num_cpus=2, include_dashboard=False, log_to_driver=False)
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
        assert gone(_own("Trial", "Collector", "ReplayShard", "Evaluator", "FinetuneLearnerRole"))
    finally:
        ray.shutdown()


def _own(*kinds: str) -> list[psutil.Process]:
    """Actors of these classes in the Ray of this process; others may run trials on the same machine."""

    def title(process: psutil.Process) -> str:
        try:
            return " ".join(process.cmdline())
        except psutil.Error:  # it has just ended
            return ""

    children = psutil.Process().children(recursive=True)
    return [process for process in children if any(f"ray::{kind}" in title(process) for kind in kinds)]


class _KillOnce(tune.Callback):
    """Kills the trial's own process once it has learnt something."""

    killed = 0

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_trial_result(self, iteration: int, trials: list[tune.Trainable], trial: object, result: dict, **_: object):
        if result.get("update", 0) > 30 and not _KillOnce.killed:
            _KillOnce.killed = int(result["update"])
            (victim,) = _own("Trial")
            victim.send_signal(signal.SIGKILL)
            time.sleep(1)
            assert read_metrics(self.out / "metrics.jsonl")
