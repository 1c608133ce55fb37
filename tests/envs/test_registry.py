from __future__ import annotations

import gymnasium
import pytest

from prelar_ray.action_space import ActionSpace
from prelar_ray.config import EnvConfig
from prelar_ray.envs import action_space, check_task, known_tasks, make_env, register_gymnasium
from prelar_ray.errors import ConfigError
from prelar_ray.extras import without


def test_a_task_that_resembles_none_is_answered_with_a_few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [f"{family}/task-{number}" for family in ("one", "two") for number in range(200)]
    monkeypatch.setattr("prelar_ray.envs.registry.known_tasks", lambda: known)
    with pytest.raises(
        ConfigError, match=r"^env\.task=x: no such task; there are 400, such as one/task-0, two/task-0$"
    ):
        check_task("x")
    with pytest.raises(ConfigError) as caught:
        check_task("one/tusk")
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("task", ["my_arms:Arm-v0", "my_arms:left/Arm-v0", "Pendulum-v1"])
def test_a_task_of_gymnasium_without_its_family_is_answered_before_simulators_are_loaded(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("prelar_ray.envs.registry.known_tasks")
    with pytest.raises(ConfigError) as refusal:
        check_task(task)
    assert str(refusal.value) == f"env.task={task}: no such task; did you mean gym/{task}?"


def test_a_family_that_does_not_exist_is_answered_with_those_that_do_before_simulators_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("prelar_ray.envs.registry.known_tasks")
    with pytest.raises(ConfigError) as refusal:
        check_task("wetlab/Pipette-v0")
    assert str(refusal.value) == (
        "env.task=wetlab/Pipette-v0: no family wetlab; there are dmc, gym, metaworld, prelar; "
        "a gymnasium id of a module wetlab is gym/wetlab:Pipette-v0"
    )


@pytest.mark.skipif(bool(without("dmc")), reason="DeepMind Control is not installed")
@pytest.mark.render
def test_all_families_are_known() -> None:
    tasks = known_tasks()
    assert {"metaworld/reach-v3", "dmc/walker-walk", "dmc/ball_in_cup-catch", "prelar/point-reach"} <= set(tasks)
    assert sum(task.startswith("metaworld/") for task in tasks) == 50
    assert len(set(tasks)) == len(tasks)


@pytest.mark.render
@pytest.mark.parametrize(
    ("task", "nearest"),
    [
        ("metaworld/reach-v2", "metaworld/reach-v3"),
        ("dmc/walker_walk", "dmc/walker-walk"),
        ("point-reach", "prelar/point-reach"),
        ("reach-v3", "metaworld/reach-v3"),
    ],
)
def test_unknown_task_is_refused_with_the_nearest_names(task: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"^env\.task={task}: .*{nearest}"):
        make_env(EnvConfig(task=task), 0)


@pytest.mark.render
def test_unknown_task_names_the_key_it_came_from() -> None:
    with pytest.raises(ConfigError, match=r"^record\.tasks\.3=metaworld/pusch-v3: no such task; .*metaworld/push-v3"):
        check_task("metaworld/pusch-v3", "record.tasks.3")


def test_a_camera_for_a_task_that_has_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^env\.camera=corner: prelar/point-reach has no cameras; leave"):
        make_env(EnvConfig(task="prelar/point-reach", camera="corner"), 0)


def test_registering_again_changes_nothing() -> None:
    before = dict(gymnasium.registry)
    register_gymnasium()
    assert gymnasium.registry == before
    assert {f"prelar_ray/{name}-v0" for name in ("point-reach", "arena", "metaworld", "dmc")} <= set(before)


@pytest.mark.render
@pytest.mark.parametrize(
    ("task", "size"), [("prelar/point-reach", 2), ("metaworld/reach-v3", 4), ("dmc/walker-walk", 6)]
)
def test_the_size_of_a_task_s_actions(task: str, size: int) -> None:
    assert action_space(EnvConfig(task=task)) == ActionSpace.continuous(size)
