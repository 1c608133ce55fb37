"""Gauges without a Ray."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import ClassVar

import pytest

from prelar_ray.distributed import gauges
from prelar_ray.distributed.gauges import Gauges


class Recorded:
    """A gauge of Ray that keeps what it is set to."""

    values: ClassVar[dict[tuple[str, str], list[float]]] = defaultdict(list)

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description.isascii()
        self.name, self.tag_keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tuple(tags) == self.tag_keys, "a tag that Ray was not told of is refused"
        self.values[self.name, "/".join(tags.values())].append(value)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], list[float]]:
    monkeypatch.setattr(gauges, "Gauge", Recorded)
    monkeypatch.setattr(gauges, "REPEAT_SECONDS", 0.01)
    Recorded.values.clear()
    return Recorded.values


def test_a_value_is_set_again_until_the_gauges_are_closed(recorded: dict[tuple[str, str], list[float]]) -> None:
    shown = Gauges(run="a")
    shown.show({"evaluation/return_mean": 1.0})
    shown.show({"update": 5.0, "model/action_r2": 0.5})
    key = "prelar_evaluation_return_mean", "a"
    deadline = time.monotonic() + 10
    while len(recorded[key]) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    shown.close()
    before = len(recorded[key])
    time.sleep(0.05)
    assert recorded[key] == [1.0] * before
    assert set(recorded["prelar_update", "a"]) == {5.0}


def test_further_tags_tell_values_of_one_name_apart(recorded: dict[tuple[str, str], list[float]]) -> None:
    shown = Gauges(study="s")
    for state, count in {"waiting": 2, "running": 1}.items():
        shown.show({"study_runs": count}, state=state)
    shown.show({"study_progress": 0.25})
    shown.close()
    assert recorded["prelar_study_runs", "s/waiting"][-1] == 2
    assert recorded["prelar_study_runs", "s/running"][-1] == 1
    assert recorded["prelar_study_progress", "s"][-1] == 0.25


def test_a_name_that_no_table_has_is_refused(recorded: dict[tuple[str, str], list[float]]) -> None:
    shown = Gauges(run="a")
    with pytest.raises(KeyError, match="loss/of_sleep"):
        shown.show({"loss/of_sleep": 1.0})
    shown.close()
