"""What a study is doing, as its folder shows it."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest

from prelar_ray.storage.processes import this_process
from prelar_ray.watching.problems import Problems
from prelar_ray.watching.records import StudyStatus
from prelar_ray.watching.studies import look_at_study
from tests.watching.folders import (
    BEGAN,
    begin,
    contents,
    drive,
    finish,
    gone_process,
    kill,
    make_study,
    write_evaluation,
    write_lines,
)

PRE, FIRST, SECOND, THIRD = "pretrain/prelar/seed-0", *(f"finetune/prelar/seed-{seed}" for seed in range(3))


def look(path: Path, seconds: float, problems: Problems) -> StudyStatus:
    study = look_at_study(path, BEGAN + seconds, problems)
    assert study is not None
    return study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Its pre-training took 100 s, a fine-tuning runs at 1 env step/s, two wait."""
    path = make_study(tmp_path / "study", PRE, FIRST, SECOND, THIRD)
    finish(begin(path / "runs" / PRE, "pretrain"), 100)
    folder = begin(path / "runs" / FIRST, began=BEGAN + 100)
    write_lines(folder, [(110, 10), (200, 100)])
    write_evaluation(folder, [7.0], [True])
    drive(path)
    return path


def test_a_study_has_a_driver_counts_and_an_estimate(study: Path, problems: Problems) -> None:
    found = look(study, 200, problems)
    assert problems.lines == []
    assert (found.name, found.path, found.driven, found.resume) == ("study-name", str(study), True, None)
    assert found.driver is not None
    assert (found.driver.pid, found.driver.alive) == (this_process()["pid"], True)
    assert found.counts == {"finished": 1, "running": 1, "pending": 2}
    assert found.pending == {"finetune": 2}
    assert found.seconds == 200.0
    assert found.seconds_left == 900.0 + 2 * 1000.0
    assert [(run.name, run.status, run.evaluation_return) for run in found.runs] == [
        (PRE, "finished", None),
        (FIRST, "running", 7.0),
    ]


def test_a_study_whose_driver_is_gone_says_how_to_resume(study: Path, problems: Problems) -> None:
    drive(study, gone_process())
    kill(begin(study / "runs" / SECOND))
    found = look(study, 200, problems)
    assert (found.driven, found.seconds_left) == (False, None)
    assert found.driver is not None
    assert found.driver.alive is False
    assert found.counts == {"finished": 1, "running": 1, "pending": 1, "interrupted": 1}
    assert found.resume == f"prelar-ray tune {study}/study.yaml --out {study} --resume"
    assert [run.resume for run in found.runs] == [None, None, None], "the study resumes them"


def test_a_driver_on_another_host_counts_as_there(study: Path, problems: Problems) -> None:
    drive(study, this_process() | {"host": "elsewhere"})
    found = look(study, 200, problems)
    assert found.driver is not None
    assert (found.driven, found.driver.alive) == (True, None)


def test_a_study_that_is_done_needs_nothing(study: Path, problems: Problems) -> None:
    (study / "driver.json").unlink()
    for name, ended in ((FIRST, 1000), (SECOND, 2000), (THIRD, 3000)):
        shutil.rmtree(study / "runs" / name, ignore_errors=True)
        finish(begin(study / "runs" / name), ended)
    found = look(study, 9000, problems)
    assert (found.driver, found.driven, found.resume, found.counts) == (None, False, None, {"finished": 4})
    assert found.seconds == 3000.0, "from the start of the first to the end of the last"


def test_failed_and_stopped_runs_are_told_apart(study: Path, problems: Problems) -> None:
    (study / "driver.json").unlink()
    finish(begin(study / "runs" / SECOND), 50, "interrupted")
    (study / "failures.json").write_text(json.dumps({FIRST: "RoleDied: learner", THIRD: "ConfigError: no such value"}))
    (study / "stopped.json").write_text(json.dumps({SECOND: True}))
    found = look(study, 200, problems)
    assert [(run.name, run.status, run.reason) for run in found.runs[1:]] == [
        (FIRST, "failed", "RoleDied: learner"),
        (SECOND, "stopped", ""),
        (THIRD, "failed", "ConfigError: no such value"),  # before it had a folder
    ]
    assert found.counts == {"finished": 1, "failed": 2, "stopped": 1}
    assert found.resume is not None
    assert found.resume.endswith("--resume --retry-failed")


def test_damage_costs_what_is_damaged_alone(study: Path, problems: Problems) -> None:
    (study / "failures.json").write_text("{")
    (study / "runs" / PRE / "run.json").write_text("")
    (study / "driver.json").write_text("")
    (study / "study.yaml").write_text("name: [")
    found = look(study, 200, problems)
    assert found.name == "study"
    assert [(run.status, run.reason) for run in found.runs] == [
        ("failed", "its run.json cannot be read"),
        ("running", ""),
    ]
    damaged = [study / "driver.json", study / "failures.json", study / "runs" / PRE / "run.json", study / "study.yaml"]
    assert sorted(line.partition(": ")[0] for line in problems.lines) == sorted(map(str, damaged))


def test_a_study_without_a_plan_is_named(study: Path, problems: Problems) -> None:
    (study / "plan.json").write_text('{"runs": [')
    assert look_at_study(study, BEGAN, problems) is None
    (problem,) = problems.lines
    assert problem.startswith(f"{study / 'plan.json'}: cannot be read as JSON")


def test_nothing_is_locked_or_changed(study: Path, problems: Problems, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(begin(study / "runs" / SECOND))
    before = contents(study)
    monkeypatch.setattr(fcntl, "flock", lambda *_: pytest.fail("a lock was taken"))
    look(study, 200, problems)
    assert contents(study) == before
