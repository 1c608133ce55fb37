from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table

from prelar_ray.config import load_config
from prelar_ray.distributed.ray_backend import cluster_nodes
from prelar_ray.distributed.resources import Resources
from prelar_ray.replay.memory import GIB, replay_bytes
from prelar_ray.roles import RoleId
from prelar_ray.study.placement import Placement, at_once, place, trial_nodes
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
    roles = {learner: Resources(1, 1), RoleId("collector", 0): Resources(0.5, 0)}
    trial = Placement(roles, Resources(0.01, 0), (node,), one_node=True)
    assert at_once([trial], [node]) == 2
    assert at_once([trial], [node, node]) == 4
    assert at_once([trial, replace(trial, roles={learner: Resources(1, 2)})], [node]) == 1
    assert at_once([], [node]) == 0


def test_a_trial_on_one_node_is_not_counted_over_two() -> None:
    trial = Placement({RoleId("learner"): Resources(2, 0), RoleId("evaluator"): Resources(2, 0)}, None, (), True)
    assert at_once([trial], [Resources(3, 0)] * 2) == 0
    assert at_once([replace(trial, one_node=False)], [Resources(3, 0)] * 2) == 1


@pytest.mark.parametrize(
    ("settings", "nodes", "concurrent", "together"),
    [
        ([], [Resources(64, 8, 256)], None, 8),  # a run per GPU
        ([], [Resources(16, 8, 256)], None, 8),  # with few CPUs too: every process gets less
        ([], [Resources(16, 1, 64)] * 8, None, 8),
        (["learner.gpus=0.5"], [Resources(64, 8, 256)], None, 16),
        (["learner.gpus=0.5", "collect.gpus=0.25"], [Resources(64, 8, 256)], None, 8),
        (["learner.ranks=2"], [Resources(64, 8, 256)], None, 4),
        (["learner.ranks=2"], [Resources(16, 3, 64)] * 2, None, 2),  # of three GPUs one is left over
        ([], [Resources(64, 8, 256)], 3, 3),
        ([], [Resources(2, 0, 16)] * 3, 3, 3),
        ([], [Resources(32, 4, 128), Resources(16, 4, 128), Resources(8, 0, 64)], None, 8),
    ],
)
def test_a_trial_is_placed_on_one_node_so_that_all_gpus_are_used(
    settings: list[str], nodes: list[Resources], concurrent: int | None, together: int
) -> None:
    trial = place(
        load_config("small", None, ["device=auto", "replay.capacity_steps=100000", *settings]),
        "finetune",
        nodes,
        concurrent,
    )
    assert trial.one_node
    assert min(at_once([trial], nodes), concurrent or 99) == together


def test_a_trial_that_no_node_can_hold_is_spread() -> None:
    nodes = [Resources(16, 1, 64)] * 2
    trial = place(load_config("small", None, ["device=auto", "learner.ranks=2"]), "finetune", nodes)
    assert not trial.one_node
    assert sum(need.gpus for need in trial.roles.values()) == 2


def test_a_trial_that_would_starve_on_one_node_is_spread() -> None:
    config = load_config("small", None, ["device=auto", "replay.capacity_steps=100000", "collect.collectors=32"])
    trial = place(config, "finetune", [Resources(8, 1, 64), Resources(64, 0, 64), Resources(64, 0, 64)], 1)
    assert not trial.one_node
    assert sum(need.cpus for need in trial.roles.values()) == 34.5


def test_replay_shards_that_only_several_nodes_can_hold_are_spread() -> None:
    config = load_config("small", None, ["device=auto", "replay.shards=4"])
    nodes = [Resources(16, 1, 1.3 * replay_bytes(config) / GIB)] * 4
    assert not place(config, "finetune", nodes).one_node


def test_nodes_that_cannot_hold_a_trial_do_not_count_among_those_that_share() -> None:
    config = load_config("small", None, ["device=auto", "replay.capacity_steps=100000"])
    nodes = [Resources(8, 0, 64), Resources(48, 8, 256)]
    assert at_once([place(config, "finetune", nodes, 8)], nodes) == 8


def test_fractions_of_gpus_that_add_up_to_one_fit() -> None:
    config = load_config(
        "small",
        None,
        ["method=rllib/PPO", "learner.gpus=0.5", "collect.gpus=0.1", "rllib.env_runners=3", "device=auto"],
    )
    nodes = [Resources(64, 8, 256)]
    assert at_once([place(config, "finetune", nodes)], nodes) == 10  # 0.8 each


def test_where_memory_is_short_fewer_trials_share_a_node() -> None:
    config = load_config("small", None, ["device=auto"])
    node = Resources(64, 8, 5.5 * replay_bytes(config) / GIB)
    trial = place(config, "finetune", [node])
    assert trial.one_node
    assert at_once([trial], [node]) == 5


def test_a_weak_node_does_not_make_all_trials_small() -> None:
    nodes = [Resources(2, 1, 16), Resources(64, 8, 256)]
    trial = place(load_config("small", None, ["device=auto", "replay.capacity_steps=100000"]), "finetune", nodes)
    assert trial.nodes == (Resources(8, 1, 32),)


def test_half_a_gpu_each_is_what_runs_that_share_one_get() -> None:
    config = load_config("small", None, ["learner.gpus=0.5"])
    trial = place(config, "finetune", [Resources(16, 1, 64)], 2)
    assert trial.roles[RoleId("learner")].gpus == 0.5
    assert at_once([trial], [Resources(16, 1, 64)]) == 2


@pytest.mark.parametrize(
    ("overrides", "nodes", "threads"),
    [
        ((), [Resources(16, 0, 64)], 3),  # three trials have a place, of 5 cores each: two are for collectors
        ((), [Resources(16, 1, 64)], 14),  # one trial
        ((), [Resources(16, 4, 64)], 2),  # four trials, of 4 cores each
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
        part.cpus for part in place(config, "finetune", nodes).processes.values()
    ]


@pytest.mark.cluster
def test_eight_trials_have_a_gpu_each_beside_their_collectors_and_a_ninth_waits_for_a_node_that_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # tests hide the GPU; these only count

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=32, num_gpus=4, object_store_memory=80 * 2**20)
        ray.init(address=cluster.address, logging_level="WARNING", log_to_driver=False)
        config = load_config("small", None, ["device=auto", "replay.capacity_steps=10000"])
        nodes = [node for node in cluster_nodes() if node.gpus]
        request = Trial.default_resource_request(trial_settings(config, "finetune", tmp_path / "run", nodes))
        groups = [placement_group(request.bundles, strategy=request.strategy) for _ in range(9)]
        ready, waiting = ray.wait([group.ready() for group in groups], num_returns=8, timeout=60)
        assert (len(ready), len(waiting)) == (8, 1)
        assert ray.available_resources().get("GPU", 0) == 0
        for group in groups:
            places = set(placement_group_table(group)["bundles_to_node_id"].values()) - {""}
            assert len(places) <= 1
        cluster.add_node(num_cpus=32, num_gpus=1, object_store_memory=80 * 2**20)
        ray.get(waiting, timeout=60)
    finally:
        ray.shutdown()
        cluster.shutdown()
