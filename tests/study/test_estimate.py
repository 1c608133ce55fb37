from __future__ import annotations

import pytest

from prelar_ray.config import load_config
from prelar_ray.distributed.resources import Resources
from prelar_ray.study.estimate import estimate
from prelar_ray.study.plan import PlannedRun
from prelar_ray.study.sweep import Rates


def test_a_run_costs_its_updates_and_one_of_rllib_is_not_guessed_at() -> None:
    overrides = ["finetune.env_steps=250000", "finetune.random_steps=5000", "finetune.env_steps_per_update=5"]
    config = load_config("paper", None, [*overrides, "finetune.initial_updates=100"])
    need = [Resources(1, 1), Resources(1, 0)]
    run = PlannedRun("finetune/x", "finetune", "dreamerv2", "prelar/point-reach", 0, config)
    found = estimate(run, Rates(finetune=0.36), need, parameters=1000)
    assert (found.updates, found.gpus) == (49_100, 1)
    assert found.gpu_hours == pytest.approx(4.91)
    assert found.replay_bytes == 250_000 * 12_288
    assert found.disk_bytes == found.replay_bytes + 4 * 12 * 1000
    baseline = PlannedRun(
        "finetune/y", "finetune", "rllib/PPO", "", 0, load_config("paper", None, ["method=rllib/PPO"])
    )
    found = estimate(baseline, Rates(finetune=0.36), need, parameters=0)
    assert (found.updates, found.hours, found.gpu_hours, found.disk_bytes, found.replay_bytes) == (
        None,
        None,
        None,
        0,
        0,
    )
