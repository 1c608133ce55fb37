from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from prelar_ray.acting.collector import Collector
from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.envs.point_reach import PointReach
from prelar_ray.errors import (
    CheckpointError,
    ConfigError,
    EnvironmentFailure,
    NonFiniteError,
)
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics
from tests.training.runs import Run, checkpoints, never, numbers_by_env

pytestmark = pytest.mark.usefixtures("short_episodes")


def test_a_reward_that_is_not_finite_costs_its_episode_and_is_said(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = PointReach._advance
    steps = itertools.count(1)

    def poisoned(self: PointReach, action: Any) -> Any:
        reward, *rest = advance(self, action)
        return (float("nan") if next(steps) == 50 else reward, *rest)

    monkeypatch.setattr(PointReach, "_advance", poisoned)
    folder = run("run", "finetune.env_steps=140", "evaluation.every_env_steps=1000")
    assert folder.info["status"] == "finished"
    assert re.search(r"environment \d, episode 1, step 5: ValueError: the reward is nan; its episode", caplog.text)
    assert sorted(numbers_by_env(folder).values()) == [[0, 1, 2], [0, 2, 3]]
    assert sum(row.get("train/env_failures") or 0 for row in read_metrics(folder.metrics_path)) == 1


def test_a_loss_that_is_not_finite_stops_the_run_by_name_and_keeps_the_last_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = FinetuneLearner.update

    def poisoned(self: FinetuneLearner, batch: Any) -> None:
        if self.updates == 4:
            with torch.no_grad():
                self.actor_critic.actor.mean.bias[0] = torch.nan
        update(self, batch)

    monkeypatch.setattr(FinetuneLearner, "update", poisoned)
    with pytest.raises(NonFiniteError, match=r"^update 5: \w+/\w+ is not finite\. The last checkpoint is intact"):
        run("run", "collect.synchronous=true", "telemetry.every_updates=50", "collect.publish_every_updates=50")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.info["status"] == "failed"
    reached = load_checkpoint(folder.path)
    assert reached.update == max(checkpoints(folder)) <= 4
    for part in ("model", "actor_critic"):
        assert all(value.isfinite().all() for value in reached.state[part].values())


def test_environments_that_raise_again_and_again_fail_the_run_and_all_are_closed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(PointReach, "close", lambda self: closed.append(self))

    def fail(self: PointReach, action: Any) -> Any:
        raise ZeroDivisionError("simulation unstable")

    monkeypatch.setattr(PointReach, "_advance", fail)
    with pytest.raises(EnvironmentFailure, match="environment 0, episode 3, step 1: ZeroDivisionError: simulation uns"):
        run("run")
    assert len(set(map(id, closed))) == len(closed) == 2 + 2 * 3
    assert RunFolder.open(tmp_path / "run").info["status"] == "failed"


def test_episodes_that_end_sooner_than_a_segment_are_learnt_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Collector.episode_steps, "__code__", (lambda self: 60).__code__
    )  # at the latest; these end at 20
    run("run", "finetune.segment_length=25", "finetune.env_steps=130")


def test_a_pace_at_which_no_episode_can_end_is_refused_before_anything_is_collected(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Collector, "collect", lambda *_: never())
    with pytest.raises(ConfigError, match=r"^finetune\.env_steps=80: too few for one episode .* in each of 5 envir"):
        run("run", "collect.envs_per_collector=5")


def test_a_start_from_a_finetuning_run_or_other_sizes_is_refused(run: Run, pretrained: Path, tmp_path: Path) -> None:
    finished = run("first")
    with pytest.raises(CheckpointError, match="000000006: a finetune checkpoint; --init takes a pretrain one"):
        run("second", init=finished.path)
    with pytest.raises(CheckpointError, match=r"000000005: rssm\.\S+ has shape \(24, 16\) .* and \(36, 20\) in this"):
        run("third", "world_model.rssm.deter=12", init=pretrained)
    assert RunFolder.open(tmp_path / "third").info["status"] == "failed"
