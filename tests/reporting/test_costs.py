"""Wall time and GPU hours from what runs record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from prelar_ray.reporting.costs import cost_of, total_cost
from prelar_ray.reporting.trials import Trial

MakeTrial = Callable[..., Trial]
GPU = {"hardware": {"gpus": ["H100"]}, "timings": {"finetune": 7200.0, "evaluate": 50.0}}


def config(device: str = "auto", ranks: int = 1, gpus: float = 0.0, collectors: int = 1, theirs: float = 0.0) -> Any:
    return {
        "method": "prelar",
        "device": device,
        "learner": {"ranks": ranks, "gpus": gpus},
        "collect": {"collectors": collectors, "gpus": theirs},
    }


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        (config(), 1.0),
        (config("cpu"), 0.0),
        (config("cuda", ranks=2), 2.0),
        (config("cuda", ranks=2, gpus=0.5), 1.0),
        (config("cuda", collectors=4, theirs=0.25), 2.0),
    ],
)
def test_gpu_hours_are_wall_time_times_the_gpus_kept(make_trial: MakeTrial, settings: Any, gpus: float) -> None:
    cost = cost_of(make_trial(info=GPU, config=settings))
    assert (cost.seconds, cost.gpus, cost.gpu_hours) == (7200.0, gpus, 2 * gpus)


def test_auto_on_a_machine_without_gpus_kept_none(make_trial: MakeTrial) -> None:
    info = {**GPU, "hardware": {"gpus": []}}
    assert cost_of(make_trial(info=info, config=config())).gpus == 0.0
    assert cost_of(make_trial(info=info, config=config("cuda"))).gpus == 1.0  # of another node of the cluster


def test_pretraining_has_no_collectors(make_trial: MakeTrial) -> None:
    info = {**GPU, "timings": {"pretrain": 3600.0}}
    trial = make_trial(phase="pretrain", info=info, config=config("cuda", collectors=4, theirs=0.25))
    assert cost_of(trial).gpu_hours == 1.0


@pytest.mark.parametrize(
    ("info", "settings"), [({**GPU, "timings": {}}, config()), (GPU, {}), (GPU, {"device": "cuda", "learner": None})]
)
def test_what_is_not_recorded_is_not_guessed(make_trial: MakeTrial, info: Any, settings: Any) -> None:
    assert cost_of(make_trial(info=info, config=settings)).gpu_hours is None


def test_environments_of_rllib_have_no_gpu(make_trial: MakeTrial) -> None:
    settings = {**config("cuda", collectors=4, theirs=0.25), "method": "rllib/PPO"}
    assert cost_of(make_trial(info=GPU, config=settings)).gpus == 1.0


def test_a_total_says_of_how_many_runs_the_cost_is_not_known(make_trial: MakeTrial) -> None:
    runs = [
        make_trial(info=GPU, config=config()),
        make_trial(info={**GPU, "timings": {}}, config=config()),
        make_trial(),
    ]
    total = total_cost(runs)
    assert (total.seconds, total.gpu_hours, total.unknown) == (7200.0, 2.0, 1)  # the third never began
