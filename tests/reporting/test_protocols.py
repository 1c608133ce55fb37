"""Scores measured differently are not put together by accident."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prelar_ray.errors import UsageError
from prelar_ray.reporting.protocols import check_protocols, protocol_of, protocols_by_task
from prelar_ray.reporting.scores import RunScores
from prelar_ray.storage.records import EvaluationRecord

MakeScores = Callable[..., RunScores]
INFO = {"versions": {"metaworld": "3.1", "mujoco": "3.3", "dm_control": "1.0", "torch": "2"}}
CONFIG = {"env": {"action_repeat": 2, "camera": "default", "render_quality": "full", "task": "x"}}


def evaluated(*episodes: int) -> list[EvaluationRecord]:
    return [
        EvaluationRecord(
            update=0,
            env_steps=0,
            task="x",
            returns=(0.0,) * count,
            successes=(True,) * count,
            success_rule="any step",
            policy="mode",
        )
        for count in episodes
    ]


def test_the_protocol_names_what_a_score_depends_on() -> None:
    protocol = protocol_of("metaworld/reach-v3", evaluated(10, 10), INFO, CONFIG)
    assert protocol == {
        "success rule": "any step",
        "policy": "mode",
        "evaluation.episodes": "10",
        "metaworld": "3.1",
        "mujoco": "3.3",
        "env.action_repeat": "2",
        "env.camera": "default",
        "env.render_quality": "full",
    }


def test_simulators_are_those_of_the_task() -> None:
    assert "metaworld" not in protocol_of("dmc/walker-walk", [], INFO, CONFIG)
    assert "mujoco" not in protocol_of("prelar/point-reach", [], INFO, CONFIG)


def test_what_a_damaged_run_does_not_say_is_not_stated() -> None:
    protocol = protocol_of("metaworld/reach-v3", evaluated(10, 20), {}, {})
    assert protocol["mujoco"] == protocol["env.camera"] == "not stated"
    assert protocol["evaluation.episodes"] == "10, 20"


@pytest.mark.parametrize("item", ["success rule", "policy", "evaluation.episodes", "mujoco", "env.action_repeat"])
def test_a_difference_is_refused_with_both_runs_and_the_item(make_scores: MakeScores, item: str) -> None:
    runs = [
        make_scores(name="first", source="a", protocol={item: "x", "same": "1"}),
        make_scores(name="second", source="b", seed=1, protocol={item: "y", "same": "1"}),
    ]
    message = f"{item} is x in first of a, y in second of b; leave some out, or let them be mixed with --mix-protocols"
    with pytest.raises(UsageError, match=message):
        check_protocols(runs, mix=False)
    assert check_protocols(runs, mix=True) == [f"prelar/point-reach: {item} is x in first of a, y in second of b"]


def test_other_methods_on_a_task_must_be_measured_alike_too(make_scores: MakeScores) -> None:
    runs = [make_scores(protocol={"policy": "mode"}), make_scores("apv", protocol={"policy": "sample"})]
    with pytest.raises(UsageError, match="policy is mode"):
        check_protocols(runs, mix=False)


def test_tasks_may_differ_from_each_other(make_scores: MakeScores) -> None:
    runs = [make_scores(task="a/b", protocol={"mujoco": "3"}), make_scores(task="c/d", protocol={})]
    assert check_protocols(runs, mix=False) == []


def test_a_setting_that_is_swept_over_may_differ(make_scores: MakeScores) -> None:
    def run(quality: str) -> RunScores:
        return make_scores(labels={"env.render_quality": quality}, protocol={"env.render_quality": quality})

    assert check_protocols([run("full"), run("fast")], mix=False) == []


def test_a_table_that_says_nothing_does_not_go_with_runs_that_do(make_scores: MakeScores) -> None:
    runs = [make_scores(protocol={"policy": "mode"}), make_scores(seed=1, source="data.csv", protocol={})]
    with pytest.raises(UsageError, match="policy is mode in .*, not stated in .* of data.csv"):
        check_protocols(runs, mix=False)


def test_runs_without_scores_have_no_protocol(make_scores: MakeScores) -> None:
    runs = [make_scores(protocol={"policy": "mode"}), make_scores(seed=1, success=[], protocol={})]
    assert check_protocols(runs, mix=False) == []
    assert protocols_by_task(runs) == {"prelar/point-reach": {"policy": "mode"}}


def test_scores_of_other_image_sizes_are_not_put_together(make_scores: MakeScores) -> None:
    def protocol(**env: int) -> dict[str, str]:
        return protocol_of("prelar/point-reach", [], {}, {"env": {**CONFIG["env"], **env}})

    earlier, small, large = protocol(), protocol(image_size=64), protocol(image_size=128)
    assert earlier == small
    runs = [make_scores(protocol=small), make_scores(seed=1, protocol=large)]
    with pytest.raises(UsageError, match=r"env\.image_size is 64 in .*, 128 in "):
        check_protocols(runs, mix=False)
