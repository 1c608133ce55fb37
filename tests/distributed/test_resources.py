import pytest

from prelar_ray.config import RunConfig, load_config
from prelar_ray.distributed.resources import plan_resources
from prelar_ray.errors import ResourceError


def total(config: RunConfig, cpus: float, gpus: float) -> float:
    plan = plan_resources(config, cpus, gpus)
    return (
        plan["learner"].cpus
        + config.collect.collectors * plan["collector"].cpus
        + plan["evaluator"].cpus
        + plan["replay"].cpus
    )


@pytest.mark.parametrize("cpus", [1, 2, 3, 64])
@pytest.mark.parametrize("collectors", [1, 2, 7])
def test_all_roles_fit_into_the_cluster_whatever_its_size(cpus: float, collectors: int) -> None:
    config = load_config("tiny", None, [f"collect.collectors={collectors}"])
    assert 0 < total(config, cpus, 0) <= cpus


def test_each_role_gets_a_whole_cpu_where_there_are_enough() -> None:
    plan = plan_resources(load_config("tiny"), 16, 0)
    assert plan["learner"].cpus == plan["collector"].cpus == plan["evaluator"].cpus == 1


def test_the_learner_alone_gets_the_gpu_and_only_if_the_device_allows_it() -> None:
    plan = plan_resources(load_config("paper"), 16, 1)
    assert {role: need.gpus for role, need in plan.items()} == {
        "learner": 1,
        "collector": 0,
        "evaluator": 0,
        "replay": 0,
    }
    assert plan_resources(load_config("paper", None, ["device=cpu"]), 16, 1)["learner"].gpus == 0


def test_a_gpu_that_does_not_exist_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ResourceError, match="needs 1 GPU, the cluster has 0"):
        plan_resources(load_config("paper", None, ["device=cuda"]), 16, 0)


def test_every_rank_gets_a_gpu_or_none_does() -> None:
    config = load_config("small", None, ["learner.ranks=2"])
    assert plan_resources(config, 16, 2)["learner"].gpus == 1
    assert plan_resources(config, 16, 0)["learner"].gpus == 0
    with pytest.raises(
        ResourceError, match=r"learner\.ranks=2: each needs a GPU, the cluster has 1; use learner\.ranks=1"
    ):
        plan_resources(config, 16, 1)
    assert 0 < plan_resources(config, 2, 2)["learner"].cpus < 0.5


def test_pretraining_asks_for_its_ranks_alone() -> None:
    config = load_config("small", None, ["learner.ranks=2"])
    assert plan_resources(config, 2, 0, "pretrain").keys() == {"learner"}
    assert plan_resources(config, 2, 0, "pretrain")["learner"].cpus == 1
