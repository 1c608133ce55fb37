"""Reports of tasks without success."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prelar_ray.reporting.protocols import protocol_of
from prelar_ray.reporting.read import read_run
from prelar_ray.reporting.run_report import _evaluations, write_report
from prelar_ray.reporting.scores import RETURN, SUCCESS
from prelar_ray.storage.files import append_json_line
from prelar_ray.storage.run_folder import RunFolder

MakeRun = Callable[..., RunFolder]


def test_evaluations_without_success_have_returns_alone(
    tmp_path: Path, make_run: MakeRun, evaluation: Callable[..., dict[str, Any]]
) -> None:
    folder = make_run(tmp_path, "finetune")
    folder.evaluations_path.unlink()
    for update in (20, 40):
        append_json_line(
            folder.evaluations_path, evaluation(update, 10 * update) | {"successes": [], "success_rule": "none"}
        )
    run = read_run(tmp_path)
    assert run.missing == {}
    assert (len(run.intervals[RETURN]), run.intervals[SUCCESS], run.scored(SUCCESS)) == (2, [], [])
    assert [panel.name for panel in _evaluations(run)] == ["evaluation/return_mean"]
    write_report([tmp_path], tmp_path / "report.html")
    assert "<h2" in (tmp_path / "report.html").read_text()


def test_records_of_before_do_not_give_success_to_tasks_that_have_none(
    tmp_path: Path, make_run: MakeRun, evaluation: Callable[..., dict[str, Any]]
) -> None:
    folder = make_run(tmp_path, "finetune")
    folder.evaluations_path.unlink()
    old = evaluation(40, 400) | {"task": "dmc/walker-walk", "successes": [False] * 4}
    append_json_line(folder.evaluations_path, old)
    append_json_line(folder.evaluations_path, old | {"successes": [], "success_rule": "none"})
    run = read_run(tmp_path)
    assert [of.success_rate for of in run.evaluations] == [None, None]
    assert run.scored(SUCCESS) == []
    assert protocol_of("dmc/walker-walk", run.evaluations, {}, {})["success rule"] == "none"
