from __future__ import annotations

import logging
from pathlib import Path

import pytest
from rich.console import Console

from prelar_ray.study.plan import PlannedRun, plan_runs
from prelar_ray.study.sweep import Sweep
from prelar_ray.study.table import StudyTable, study_table


@pytest.fixture
def runs(tmp_path: Path) -> list[PlannedRun]:
    finetune = {"methods": ("dreamerv2",), "tasks": ("prelar/point-reach",), "seeds": (0, 1)}
    settings = {"finetune.env_steps": 1000}
    return plan_runs(
        Sweep.model_validate({"name": "study", "preset": "tiny", "settings": settings, "finetune": finetune}), tmp_path
    )


def test_a_line_tells_of_every_event(runs: list[PlannedRun], caplog: pytest.LogCaptureFixture) -> None:
    first, second = (run.name for run in runs)
    table = StudyTable(runs, {first: "interrupted", second: "waiting"})
    with caplog.at_level(logging.INFO):
        table.started(first)
        table.progressed(first, {"env_steps": 250, "evaluation/success_rate": 0.5, "evaluation/return_mean": 12.0})
        table.started(first)
        table.ended(first, "finished")
        table.failed(second, "DataError: no disk")
    assert [record.getMessage() for record in caplog.records] == [
        f"{first}: starts",
        f"{first}: resumes",
        f"{first}: finished, success 0.50, return 12.0; 1 of 2 runs have finished",
        f"{second}: failed: DataError: no disk",
    ]


def test_the_study_is_as_far_as_its_runs_are_on_average(runs: list[PlannedRun]) -> None:
    first, second = (run.name for run in runs)
    table = StudyTable(runs, {first: "waiting", second: "finished"})
    assert (table.counts["waiting"], table.counts["finished"], table.progress) == (1, 1, 0.5)
    table.started(first)
    table.progressed(first, {"env_steps": 250})
    assert (table.counts["waiting"], table.counts["running"], table.progress) == (0, 1, 0.625)
    table.failed(first, "DataError: no disk")
    assert (table.counts["failed"], table.progress) == (1, 1.0), "nothing of it is left to do"


def test_the_table_shows_how_far_each_run_is(runs: list[PlannedRun]) -> None:
    first, second = (run.name for run in runs)
    table = StudyTable(runs, {first: "running", second: "finished"})
    assert table.status == {first: "waiting", second: "finished"}, "nothing runs before a study starts"
    table.started(first)
    table.progressed(first, {"env_steps": 250, "evaluation/success_rate": 0.5, "time_total_s": 3.0})
    console = Console(width=200)
    with console.capture() as captured:
        console.print(study_table(runs, table.status, table.lines))
    rows = [line for line in captured.get().splitlines() if "dreamerv2" in line]
    assert ["running" in rows[0], "25%" in rows[0], "0.50" in rows[0]] == [True, True, True]
    assert ["finished" in rows[1], "100%" in rows[1]] == [True, True]
