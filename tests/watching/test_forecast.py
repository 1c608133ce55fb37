"""When a study will be done."""

from __future__ import annotations

import pytest

from prelar_ray.storage.records import PlanEntry
from prelar_ray.watching.forecast import seconds_left
from prelar_ray.watching.records import RunStatus


def run(name: str, status: str = "finished", **fields: float | None) -> RunStatus:
    phase, method, _ = name.split("/")
    return RunStatus.model_validate(
        {"name": name, "path": name, "phase": phase, "method": method, "status": status} | fields
    )


def entry(name: str, init: str | None = None) -> PlanEntry:
    phase, method, _ = name.split("/")
    return PlanEntry.model_validate({"name": name, "phase": phase, "method": method, "init": init})


def test_runs_that_wait_take_the_places_of_those_that_end() -> None:
    running = [run("finetune/a/0", "running", seconds=60.0, seconds_left=40.0)]
    running += [run("finetune/a/1", "running", seconds=90.0, seconds_left=10.0)]
    waiting = [entry(f"finetune/a/{number}") for number in (2, 3, 4)]
    # 100 s each: places are free after 10 and 40 s, then after 110 and 140 s.
    assert seconds_left(running, waiting) == 210.0
    assert seconds_left(running, []) == 40.0


def test_a_run_waits_for_what_it_starts_from() -> None:
    runs = [run("finetune/a/0", seconds=50.0), run("pretrain/a/0", "running", seconds=10.0, seconds_left=90.0)]
    runs += [run("finetune/a/1", "running", seconds=40.0, seconds_left=10.0)]
    assert seconds_left(runs, [entry("finetune/a/2", init="pretrain/a/0")]) == 140.0
    assert seconds_left(runs, [entry("finetune/a/2")]) == 90.0


def test_the_same_method_tells_more_than_others_of_the_phase() -> None:
    runs = [run("finetune/a/0", seconds=10.0), run("finetune/b/0", seconds=100.0), run("finetune/b/1", seconds=300.0)]
    runs += [run("finetune/a/1", "running", seconds=5.0, seconds_left=5.0)]
    assert seconds_left(runs, [entry("finetune/b/2")]) == 205.0
    assert seconds_left(runs, [entry("finetune/c/0")]) == pytest.approx(5.0 + 55.0)  # median of 10, 10, 100 and 300


def test_a_run_of_unknown_rate_takes_what_is_usual() -> None:
    runs = [run("finetune/a/0", seconds=100.0), run("finetune/a/1", "running", progress=0.25, seconds=5.0)]
    assert seconds_left(runs, []) == 75.0


def test_an_interrupted_run_takes_what_it_lacks() -> None:
    runs = [run("finetune/a/0", "running", seconds=60.0, seconds_left=40.0)]
    runs += [run("finetune/a/1", "interrupted", progress=0.5, seconds=70.0)]
    assert seconds_left(runs, []) == 90.0


def test_nothing_is_said_where_nothing_is_known_of_a_run() -> None:
    running = run("pretrain/a/0", "running", seconds=60.0, seconds_left=40.0)
    assert seconds_left([running], [entry("finetune/a/0")]) is None
    assert seconds_left([run("pretrain/a/0", "running", seconds=1.0)], []) is None
    assert seconds_left([run("pretrain/a/0", seconds=1.0)], [entry("pretrain/a/1")]) is None, "nothing runs"
