from __future__ import annotations

import pytest

from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.training.local_backend import LocalBackend
from tests.training.runs import Events, Run, logged

pytestmark = pytest.mark.usefixtures("short_episodes")


def paid(env_steps: int, config: list[int]) -> int:
    random_steps, per_update, initial = config
    return initial + (env_steps - random_steps) // per_update if env_steps >= random_steps else 0


@pytest.mark.parametrize(
    ("collectors", "envs", "repeat", "per_update"), [(1, 1, 1, 5), (2, 3, 1, 4), (1, 2, 2, 8), (2, 1, 1, 1)]
)
def test_synchronous_mode_makes_exactly_the_updates_that_are_paid_for_after_every_turn(
    run: Run, events: Events, collectors: int, envs: int, repeat: int, per_update: int
) -> None:
    folder = run(
        "run",
        "collect.synchronous=true",
        "collect.request_steps=4",
        f"collect.collectors={collectors}",
        f"collect.envs_per_collector={envs}",
        f"env.action_repeat={repeat}",
        "finetune.random_steps=130",
        f"finetune.env_steps={130 + 4 * per_update}",
        f"finetune.env_steps_per_update={per_update}",
        "evaluation.episodes=1",
    )
    config = [130, per_update, 2]
    can_sample = False
    for index, (kind, env_steps, updates) in enumerate(events):
        assert updates <= paid(env_steps, config)
        can_sample |= kind == "sample"
        turn_ends = kind == "sample" and events[index + 1 : index + 2] != [] and events[index + 1][0] == "insert"
        if turn_ends or (can_sample and index + 1 == len(events)):
            assert updates == paid(env_steps, config)
    assert can_sample
    info = RunFolder.open(folder.path).info["summary"]
    assert info["env_steps"] >= 130 + 4 * per_update
    assert info["updates"] == paid(info["env_steps"], config)
    assert all(row["weights/age_updates"] == 0 for row in logged(folder) if "weights/age_updates" in row)


@pytest.mark.parametrize(
    ("collectors", "tolerance", "request_steps", "per_update"),
    [(1, 1, 3, 4), (2, 1, 3, 4), (2, 4, 3, 4), (1, 3, 10, 2)],
)
def test_asynchronous_mode_keeps_the_ratio_within_its_tolerance_and_ends_at_it(
    run: Run, events: Events, collectors: int, tolerance: int, request_steps: int, per_update: int
) -> None:
    env_steps = 90 + (40 if per_update == 4 else 80)
    folder = run(
        "run",
        f"collect.request_steps={request_steps}",
        f"collect.collectors={collectors}",
        f"replay.tolerance_updates={tolerance}",
        "finetune.random_steps=90",
        f"finetune.env_steps={env_steps}",
        f"finetune.env_steps_per_update={per_update}",
        "evaluation.episodes=1",
        "checkpoint.every_updates=10",
    )
    config = [90, per_update, 2]
    lags = [paid(steps, config) - updates for _, steps, updates in events]
    in_flight = 1 + collectors * 2 * request_steps // per_update  # asked for before the tolerance was exceeded
    assert min(lags) >= 0
    assert max(lags) <= tolerance + in_flight
    info = RunFolder.open(folder.path).info["summary"]
    assert info["env_steps"] == env_steps
    assert info["updates"] == events[-1][2] == paid(env_steps, config)


def test_the_learner_waits_for_a_collector_whose_weights_are_too_old(run: Run) -> None:
    class SlowCollectors(LocalBackend):
        """Whatever else is asked for is done first."""

        def _run_next(self) -> None:
            others = [call for call in self._queue if call.method.__name__ != "collect"]
            if others and self._queue[0] is not others[0]:
                self._queue.remove(others[0])
                self._queue.appendleft(others[0])
            super()._run_next()

    folder = run(
        "run",
        "collect.collectors=2",
        "collect.envs_per_collector=1",
        "collect.publish_every_updates=1",
        "collect.max_age_updates=4",
        "finetune.env_steps_per_update=1",
        "finetune.env_steps=160",
        "telemetry.every_updates=1",
        "replay.tolerance_updates=64",
        backend=SlowCollectors,
    )
    rows = read_metrics(folder.metrics_path)
    assert max(filter(None, (row.get("weights/age_largest") for row in rows))) == 4
