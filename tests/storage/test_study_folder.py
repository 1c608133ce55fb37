from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.plan import PlannedRun, changed, plan_runs
from prelar_ray.study.sweep import Sweep

TASK = "prelar/point-reach"
SWEEP = b"name: study\nfinetune: {methods: [dreamerv2]}\n"


def runs_of(seeds: tuple[int, ...], tmp_path: Path, methods: tuple[str, ...] = ("dreamerv2",)) -> list[PlannedRun]:
    parts: dict[str, Any] = {"pretrain": {"videos": {"a": "videos"}}} if "prelar" in methods else {}
    finetune = {"methods": methods, "tasks": (TASK,), "seeds": seeds}
    return plan_runs(Sweep.model_validate({"name": "study", "preset": "tiny", **parts, "finetune": finetune}), tmp_path)


def begin(folder: StudyFolder, run: PlannedRun, status: str) -> None:
    made = RunFolder.create(folder.run_path(run.name), "", run.phase)
    made.update(status=status)


def test_a_study_starts_in_a_new_folder_and_resumes_only_if_asked_to(tmp_path: Path) -> None:
    out = tmp_path / "study"
    with pytest.raises(RunFolderError, match="holds no study to --resume"):
        StudyFolder.open(out, "study", resume=True)
    folder = StudyFolder.open(out, "study", resume=False)
    folder.write_plan(SWEEP, [run.entry for run in runs_of((0,), tmp_path)], "study")
    with pytest.raises(RunFolderError, match="holds this study already; add --resume"):
        StudyFolder.open(out, "study", resume=False)
    with pytest.raises(RunFolderError, match="holds the study study, this is other"):
        StudyFolder.open(out, "other", resume=True)
    StudyFolder.open(out, "study", resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="is no study and not empty"):
        StudyFolder.open(tmp_path, "study", resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_plan_keeps_what_an_earlier_one_had(tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    few, more = runs_of((0, 1), tmp_path), runs_of((1, 2), tmp_path)
    folder.write_plan(SWEEP, [run.entry for run in few], "study")
    folder.write_plan(SWEEP, [run.entry for run in more], "study")
    entries = json.loads((folder.path / "plan.json").read_text())["runs"]
    assert [entry["seed"] for entry in entries] == [0, 1, 2]
    assert set(entries[0]) == {"name", "phase", "method", "task", "seed", "labels", "init"}


def test_values_that_were_proposed_stay_when_a_study_is_resumed(tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    runs = runs_of((0, 1), tmp_path)
    plan = SWEEP, [run.entry for run in runs], "study", [run.name for run in runs]
    folder.write_plan(*plan)
    folder.set_labels(changed(runs[0], {"behaviour.horizon": 7}).entry)
    folder.write_plan(*plan)
    assert folder.labels(runs[0].name) == {"behaviour.horizon": 7}
    assert folder.labels(runs[1].name) == {}


def test_a_study_that_a_process_is_at_work_on_is_left_to_it(tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    folder.write_plan(SWEEP, [], "study")
    del folder
    record = tmp_path / "study" / "driver.json"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        started = psutil.Process(other.pid).create_time()
        record.write_text(json.dumps({"host": socket.gethostname(), "pid": other.pid, "started": started}))
        with pytest.raises(RunFolderError, match=f"process {other.pid} on .* is at work on this study"):
            StudyFolder.open(tmp_path / "study", "study", resume=True)
        other.kill()
    with StudyFolder.open(tmp_path / "study", "study", resume=True).driven():
        assert json.loads(record.read_text())["pid"] == os.getpid()
    assert not record.exists()
    record.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0}))
    for resume in (True, False):
        with pytest.raises(RunFolderError, match="process 1 on elsewhere .* or delete .* if it is gone"):
            StudyFolder.open(tmp_path / "study", "study", resume)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    (folder.path / "plan.json").write_text('{"runs": [')
    with pytest.raises(DataError, match=r"plan\.json: cannot be read as JSON"):
        folder.write_plan(SWEEP, [run.entry for run in runs_of((0,), tmp_path)], "study")


def test_a_name_that_the_file_leaves_out_is_recorded(tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path / "study", "mine", resume=False)
    folder.write_plan(b"finetune: {}\n", [], "mine")
    StudyFolder.open(tmp_path / "study", "mine", resume=True)


def test_what_a_scheduler_stopped_is_known_as_such(tmp_path: Path) -> None:
    (run,) = runs_of((0,), tmp_path)
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    assert folder.status(run.name) == "waiting"
    begin(folder, run, "interrupted")
    assert folder.status(run.name) == "interrupted"
    folder.note_stopped(run.name)
    assert folder.status(run.name) == "stopped"


def test_failures_are_kept_until_they_are_forgotten(tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    folder.note_failure("a", "no route")
    folder.note_failure("b", "no disk")
    folder.note_failure("a", None)
    assert folder.failures() == {"b": "no disk"}
