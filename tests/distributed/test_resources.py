import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelar_ray.config import RunConfig, load_config
from prelar_ray.distributed.resources import Resources
from prelar_ray.errors import ResourceError
from prelar_ray.kinds import Phase, kind_of

NODES = st.lists(
    st.builds(Resources, st.sampled_from([1.0, 2.0, 3.0, 16.0, 64.0]), st.just(0.0), st.just(64.0)), min_size=1
)


def config(*overrides: str, preset: str = "tiny") -> RunConfig:
    return load_config(preset, None, list(overrides))


def node(cpus: float, gpus: float = 0.0, memory: float = 64.0) -> Resources:
    return Resources(cpus, gpus, memory)


def plan_of(config: RunConfig, nodes: list[Resources], phase: Phase = "finetune") -> dict[str, Resources]:
    return {str(role): need for role, need in kind_of(config, phase).plan(config, nodes).items()}


def fits(plan: dict[str, Resources], nodes: list[Resources]) -> bool:
    """Whether roles of one size, and one of half of it, can be put somewhere."""
    size = max(need.cpus for need in plan.values())
    places = sum(int(node.cpus / size + 1e-9) for node in nodes)
    return places >= len(plan) - 1 and sum(need.cpus for need in plan.values()) <= sum(node.cpus for node in nodes)


@given(NODES, st.integers(1, 7))
def test_all_roles_have_a_place_whatever_the_cluster(nodes: list[Resources], collectors: int) -> None:
    plan = plan_of(config(f"collect.collectors={collectors}"), nodes)
    assert all(need.cpus > 0 for need in plan.values())
    assert fits(plan, nodes)


def test_each_role_gets_a_whole_cpu_where_there_are_enough() -> None:
    plan = plan_of(config("collect.collectors=2"), [node(16, 0)])
    assert plan == {
        "learner": Resources(1, 0),
        "replay": Resources(0.5, 0, 6000 * 64 * 64 * 3 / 2**30),
        "evaluator": Resources(1, 0),
        "collector-0": Resources(1, 0),
        "collector-1": Resources(1, 0),
    }


def test_the_learner_alone_gets_the_gpu_and_only_if_the_device_allows_it() -> None:
    nodes = [node(16, 1)]
    plan = plan_of(config(preset="paper"), nodes)
    assert {role for role, need in plan.items() if need.gpus} == {"learner"}
    assert plan["learner"].gpus == 1
    assert plan_of(config("device=cpu", preset="paper"), nodes)["learner"].gpus == 0


def test_what_the_configuration_asks_for_is_taken_as_it_is() -> None:
    asked = ("learner.cpus=3", "learner.gpus=0.5", "collect.cpus=2", "collect.gpus=0.25", "collect.collectors=2")
    plan = plan_of(config(*asked, preset="paper"), [node(16, 1)])
    assert plan["learner"] == Resources(3, 0.5)
    assert plan["collector-0"] == plan["collector-1"] == Resources(2, 0.25)


def test_collectors_and_the_evaluator_get_a_cpu_for_each_of_their_workers() -> None:
    workers = ("collect.workers=4", "collect.envs_per_collector=8", "evaluation.workers=2", "evaluation.envs=2")
    plan = plan_of(config(*workers), [node(16)])
    assert [plan[role].cpus for role in ("learner", "collector-0", "evaluator")] == [1, 4, 2]
    assert plan_of(config(*workers, "collect.cpus=3"), [node(16)])["collector-0"].cpus == 3
    small = plan_of(config(*workers), [node(2)])
    assert 0 < small["learner"].cpus <= small["evaluator"].cpus / 2 <= small["collector-0"].cpus / 4 + 0.01
    assert plan_of(config(*workers, "collect.workers=1", "evaluation.workers=1"), [node(16)])["evaluator"].cpus == 1


def test_the_evaluator_gets_the_share_of_a_gpu_that_it_asks_for() -> None:
    shared = ("device=auto", "learner.gpus=0.5", "collect.gpus=0.25", "evaluation.gpus=0.25")
    assert plan_of(config(*shared), [node(16, 1)])["evaluator"] == Resources(1, 0.25)
    wanted = (
        r"collect\.collectors=1 with 0\.25 each, and the evaluator with evaluation\.gpus=0\.5, need 1\.25 GPUs, the "
        r"cluster has 1; use evaluation\.gpus=0, collect\.gpus=0, or device=cpu$"
    )
    with pytest.raises(ResourceError, match=wanted):
        plan_of(config(*shared, "evaluation.gpus=0.5"), [node(16, 1)])


def test_a_gpu_that_does_not_exist_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ResourceError, match="needs 1 GPU, the cluster has 0"):
        plan_of(config("device=cuda", preset="paper"), [node(16, 0)])


def test_every_rank_gets_a_gpu_or_none_does() -> None:
    two = config("learner.ranks=2", preset="small")
    assert plan_of(two, [node(16, 2)])["learner-1"].gpus == 1
    assert plan_of(two, [node(16, 0)])["learner-1"].gpus == 0
    with pytest.raises(
        ResourceError, match=r"learner\.ranks=2 with 1 GPU each .* need 2 GPUs, .* has 1; use learner\.r"
    ):
        plan_of(two, [node(16, 1)])
    assert 0 < plan_of(two, [node(2, 2)])["learner-0"].cpus < 0.5


def test_runs_may_share_a_gpu_where_they_ask_for_a_part_of_it() -> None:
    half = Resources(8, 0.5, 64)  # a run's part of a node where two are at once
    shared = config("device=auto", "learner.gpus=0.5")
    assert plan_of(shared, [half])["learner"].gpus == 0.5
    wanted = r"with 1 GPU each .* need 1 GPUs, a run's part of the cluster is 0\.5; use learner\.gpus=0\.5 to share one"
    with pytest.raises(ResourceError, match=wanted):
        plan_of(config("device=auto"), [half])


def test_what_no_node_can_hold_is_refused_with_the_arithmetic() -> None:
    wanted = r"learner needs 3 CPU 0 GPU, and no node has that left beside the other 3 roles .*: 2 CPU 0 GPU 64 GiB, 2 "
    with pytest.raises(ResourceError, match=wanted):
        plan_of(config("learner.cpus=3"), [node(2), node(2)])


def test_pretraining_asks_for_its_ranks_alone() -> None:
    plan = plan_of(config("learner.ranks=2", preset="small"), [node(2, 0)], "pretrain")
    assert plan == {"learner-0": Resources(1, 0), "learner-1": Resources(1, 0)}


def test_a_replay_that_no_node_can_hold_is_refused_with_the_arithmetic() -> None:
    long = ("finetune.env_steps=1000000", "replay.capacity_steps=1000000")
    wanted = r"replay\.capacity_steps=1000000 in replay\.shards=1: .* hold 11\.4 GiB .* the largest node has 8 GiB"
    with pytest.raises(ResourceError, match=wanted):
        plan_of(config(*long), [node(16, memory=8), node(16, memory=4)])
    plan = plan_of(config(*long, "replay.shards=2"), [node(16, memory=8), node(16, memory=8)])
    assert plan["replay-0"].memory == plan["replay-1"].memory == pytest.approx(5.72, rel=0.01)
    with pytest.raises(ResourceError, match=r"replay-\d needs .* 5\.72 GiB, and no node has that left"):
        plan_of(config(*long, "replay.shards=2"), [node(16, memory=8), node(16, memory=4)])
    plan_of(config(*long, "finetune.env_steps=200000"), [node(16, memory=4)])  # it never comes to hold more


def test_pretraining_needs_no_memory_for_a_replay() -> None:
    plan_of(config("replay.capacity_steps=1000000"), [node(16, memory=0)], "pretrain")


def baseline(*overrides: str) -> RunConfig:
    return config("method=rllib/PPO", "rllib.env_runners=2", *overrides)


def test_a_baseline_asks_for_its_own_process_and_its_env_runners() -> None:
    plan = plan_of(baseline(), [node(16, 0)])
    assert plan == {"algorithm": Resources(1, 0), "env-runner-0": Resources(1, 0), "env-runner-1": Resources(1, 0)}
    assert plan_of(baseline("rllib.env_runners=0"), [node(16, 0)]).keys() == {"algorithm"}
    small = plan_of(baseline(), [node(2, 0)])
    assert len({need.cpus for need in small.values()}) == 1
    assert sum(need.cpus for need in small.values()) <= 2


def test_a_baseline_s_algorithm_gets_the_gpu_and_its_env_runners_what_they_ask_for() -> None:
    asked = ("device=auto", "learner.cpus=3", "learner.gpus=0.5", "collect.cpus=2", "collect.gpus=0.25")
    plan = plan_of(baseline(*asked), [node(16, 1)])
    assert plan["algorithm"] == Resources(3, 0.5)
    assert plan["env-runner-0"] == plan["env-runner-1"] == Resources(2, 0.25)
    assert plan_of(baseline("device=auto"), [node(16, 0)])["algorithm"].gpus == 0


def test_a_baseline_that_no_cluster_can_hold_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ResourceError, match="rllib.env_runners=2 with 0.4 each need 1.8 GPUs, the cluster has 1"):
        plan_of(baseline("device=auto", "collect.gpus=0.4"), [node(16, 1)])
    with pytest.raises(ResourceError, match="algorithm needs 3 CPU 0 GPU, .* other 2 roles .* rllib.env_runners"):
        plan_of(baseline("learner.cpus=3"), [node(2, 0), node(2, 0)])


def test_shares_of_a_gpu_that_add_up_to_it_fit() -> None:
    plan = plan_of(
        config("device=auto", "learner.gpus=0.1", "collect.gpus=0.05", "collect.collectors=18"), [node(64, 1)]
    )
    assert sum(need.gpus for need in plan.values()) == pytest.approx(1.0)


def test_gpus_that_a_learner_asks_for_and_no_node_has_are_refused() -> None:
    with pytest.raises(
        ResourceError, match=r"^learner\.gpus=1: the cluster has no GPU; .* learner\.gpus=0 to learn on"
    ):
        plan_of(config("device=auto", "learner.gpus=1"), [node(8)])
