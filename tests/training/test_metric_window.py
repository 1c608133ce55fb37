from __future__ import annotations

import math

import pytest

from prelar_ray.acting.collector import Collected
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.training import metric_window as module
from prelar_ray.training.metric_window import MetricWindow


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the window reads, seconds."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def collected(env_steps: int = 10, version: int = 3, **episodes: tuple[float, ...]) -> Collected:
    return Collected(
        env_steps=env_steps,
        version=version,
        returns=episodes.get("returns", ()),
        successes=tuple(map(bool, episodes.get("successes", ()))),
        lengths=tuple(map(int, episodes.get("lengths", ()))),
        numbers={},
        failures=tuple(map(str, episodes.get("failures", ()))),
    )


def test_rates_and_means_over_the_window(clock: list[float]) -> None:
    window = MetricWindow()
    window.collected(collected(30, returns=(1.0, 2.0), successes=(0, 1), lengths=(5, 7)), age=2)
    window.collected(collected(10, returns=(6.0,), successes=(0,), lengths=(9,)), age=5)
    for _ in range(3):
        window.learnt(1)
    window.paused(1.0)
    clock[0] += 4
    values = window.read()
    assert values == pytest.approx(
        {
            "rate/updates_per_second": 0.75,
            "rate/env_steps_per_second": 10,
            "weights/age_updates": 3.5,
            "weights/age_largest": 5,
            "time/collectors_paused": 0.25,
            "train/episode_return": 3,
            "train/episode_success": 1 / 3,
            "train/episode_steps": 7,
        }
    )
    assert values.keys() <= METRICS.keys()
    assert window.last_return == 6


def test_failures_of_environments_are_counted_again_in_every_window() -> None:
    window = MetricWindow()
    for _ in range(2):
        window.collected(collected(failures=(0, 1)), age=0)
    assert window.read()["train/env_failures"] == 4
    assert "train/env_failures" not in window.read()
    assert "train/env_failures" in METRICS


def test_what_did_not_happen_is_left_out(clock: list[float]) -> None:
    window = MetricWindow()
    window.collected(collected(version=-1), age=8)  # at random
    clock[0] += 1
    assert window.read().keys() == {"rate/updates_per_second", "rate/env_steps_per_second", "time/collectors_paused"}
    assert math.isnan(window.last_return)


def test_reading_begins_another_window_and_the_last_return_stays(clock: list[float]) -> None:
    window = MetricWindow()
    window.collected(collected(returns=(4.0,), successes=(1,), lengths=(3,)), age=0)
    window.learnt(1)
    clock[0] += 1
    window.read()
    clock[0] += 2
    assert set(window.read().values()) == {0}
    assert window.last_return == 4
    window.read()  # twice within one tick of the clock


def test_without_success_none_is_told(clock: list[float]) -> None:
    window = MetricWindow()
    window.collected(collected(30, returns=(1.0, 2.0), lengths=(5, 7)), age=0)
    values = window.read()
    assert values["train/episode_return"] == 1.5
    assert "train/episode_success" not in values
