from __future__ import annotations

from pathlib import Path

import pytest

from prelar_ray.config import load_config
from prelar_ray.distributed.resources import Resources
from prelar_ray.roles import RoleId
from prelar_ray.study.placement import at_once, placement, trial_nodes
from prelar_ray.study.trial import Trial, trial_settings


def test_runs_at_once_get_equal_parts_and_whole_gpus_where_there_are_enough() -> None:
    node = Resources(64, 8, 256)
    assert trial_nodes([node], None) == [node]
    assert trial_nodes([node], 8) == [Resources(8, 1, 32)]
    assert trial_nodes([node], 3) == [Resources(21.33, 2, 256 / 3)]
    assert trial_nodes([node], 16) == [Resources(4, 0.5, 16)]
    assert trial_nodes([node, node], 4) == [Resources(32, 4, 128)] * 2


def test_trials_are_counted_by_what_fits_beside_each_other() -> None:
    node = Resources(4, 2, 64)
    learner = RoleId("learner")
    trial = {RoleId("trial"): Resources(0.01, 0), learner: Resources(1, 1), RoleId("collector", 0): Resources(0.5, 0)}
    assert at_once([trial], [node]) == 2
    assert at_once([trial], [node, node]) == 4
    assert at_once([trial, {learner: Resources(1, 2)}], [node]) == 1
    assert at_once([], [node]) == 0


def test_half_a_gpu_each_is_what_runs_that_share_one_get() -> None:
    config = load_config("small", None, ["learner.gpus=0.5"])
    plan = placement(config, "finetune", trial_nodes([Resources(16, 1, 64)], 2))
    assert plan[RoleId("learner")].gpus == 0.5
    assert at_once([plan], [Resources(16, 1, 64)]) == 2


@pytest.mark.parametrize(
    ("overrides", "nodes", "threads"),
    [
        ((), [Resources(16, 0, 64)], 3),  # three trials have a place, of 5 cores each: two are for collectors
        ((), [Resources(16, 1, 64)], 14),  # one trial
        ((), [Resources(16, 4, 64)], 3),  # as many as have a place by their CPUs
        (("threads=5",), [Resources(16, 0, 64)], 5),
        (("learner.ranks=2",), [Resources(16, 0, 64)], 3),  # each, of 8 cores
        (("collect.workers=2", "collect.envs_per_collector=2"), [Resources(16, 0, 64)], 4),  # two trials, of 8 cores
        ((), [Resources(2, 0, 64)], 1),
    ],
)
def test_trials_share_the_cores_of_a_node(
    tmp_path: Path, overrides: tuple[str, ...], nodes: list[Resources], threads: int
) -> None:
    config = load_config("small", None, ["device=auto", "collect.collectors=2", *overrides])
    wanted = trial_settings(config, "finetune", tmp_path / "run", nodes)
    assert wanted["config"]["threads"] == threads


@pytest.mark.parametrize("method", ["dreamerv2", "rllib/PPO"])
def test_what_is_planned_for_a_trial_is_what_it_asks_for(tmp_path: Path, method: str) -> None:
    config = load_config("tiny", None, [f"method={method}", "learner.cpus=3"])
    nodes = [Resources(64, 0, 64)]
    request = Trial.default_resource_request(trial_settings(config, "finetune", tmp_path / "run", nodes))
    assert [bundle["CPU"] for bundle in request.bundles] == [
        part.cpus for part in placement(config, "finetune", nodes).values()
    ]
