"""The folder of a run: what is refused, what is recorded, what survives."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest

from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.storage import run_folder
from prelar_ray.storage.files import append_json_line
from prelar_ray.storage.records import EvaluationRecord
from prelar_ray.storage.run_folder import RunFolder


def record_of(path: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((path / "run.json").read_text())
    return content


def test_a_new_run_records_how_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "prelar_ray", "pretrain", "--out", "my run"])
    RunFolder.create(tmp_path / "new" / "run", "seed: 0\n", "pretrain")
    path = tmp_path / "new" / "run"
    info = record_of(path)
    assert (info["phase"], info["status"], info["finished"]) == ("pretrain", "running", None)
    assert info["command"] == "python -m prelar_ray pretrain --out 'my run'"
    assert {"python", "torch", "ray", "numpy"} <= info["versions"].keys()  # type: ignore[attr-defined]
    assert info["hardware"]["cores"] >= 1  # type: ignore[index]
    assert (path / "config.yaml").read_text() == "seed: 0\n"


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path, "", "record").info["phase"] == "record"


def test_a_folder_that_holds_a_run_is_refused_and_untouched(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "seed: 0\n", "pretrain").update(status="finished")
    with pytest.raises(RunFolderError, match=r"already holds a run; --resume --out \S+ alone continues it"):
        RunFolder.create(tmp_path, "seed: 1\n", "pretrain")
    assert record_of(tmp_path)["status"] == "finished"
    assert (tmp_path / "config.yaml").read_text() == "seed: 0\n"


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunFolderError, match=r"holds other files \(thesis.txt\); choose a new --out"):
        RunFolder.create(tmp_path, "", "pretrain")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="is a file, expected a folder; choose another --out"):
        RunFolder.create(tmp_path / "file", "", "pretrain")
    with pytest.raises(RunFolderError, match="cannot make this folder: Not a directory"):
        RunFolder.create(tmp_path / "file" / "run", "", "pretrain")


def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere, so permissions do not do
    with pytest.raises(RunFolderError, match="not writable; change its permissions or choose another --out"):
        RunFolder.create(tmp_path, "", "pretrain")


def test_resuming_keeps_the_record_and_sets_the_status(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "", "finetune")
    with folder.timed("learning"):
        pass
    folder.update(status="interrupted", finished="then")
    made = folder.info["id"], folder.info["created"]
    resumed = RunFolder.create(tmp_path, "seed: 2\n", "finetune", resume=True)
    resumed.start()
    assert (resumed.info["status"], resumed.info["finished"]) == ("running", None)
    assert (resumed.info["id"], resumed.info["created"]) == made
    assert resumed.info["timings"].keys() == {"learning"}
    assert len(resumed.info["resumed"]) == 1
    assert (tmp_path / "config.yaml").read_text() == "seed: 2\n"


def test_a_resume_that_fails_before_training_starts_changes_nothing(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "seed: 1\n", "finetune").update(status="finished", finished="then")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for error in (DataError("does not fit"), KeyboardInterrupt()):
        folder = RunFolder.create(tmp_path, "seed: 2\n", "finetune", resume=True)
        with pytest.raises(type(error)), closing(folder), folder.track(), folder.timed("learning"):
            raise error
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_starts_once(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "seed: 1\n", "finetune")
    folder.start()
    assert "resumed" not in folder.info
    folder = RunFolder.create(tmp_path, "seed: 1\n", "finetune", resume=True)
    for _ in range(2):
        folder.start()
    assert len(folder.info["resumed"]) == 1


def test_resuming_another_phase_is_refused(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "", "pretrain")
    with pytest.raises(RunFolderError, match="holds a pretrain run, which finetune cannot --resume"):
        RunFolder.create(tmp_path, "", "finetune", resume=True)


def test_resuming_nothing_is_refused_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run.json; .* there is no run to --resume"):
        RunFolder.create(tmp_path / "run", "", "finetune", resume=True)
    assert list(tmp_path.iterdir()) == []


def test_opening_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder, it holds no run.json"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"phase": "pretrain", "status": "running", "versions": 1}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(DataError, match="run.json: .*restore"):
        RunFolder.open(tmp_path)


def test_updates_reach_the_disk_and_leave_no_other_file(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "", "record").update(summary={"frames": 10})
    assert RunFolder.open(tmp_path).info["summary"] == {"frames": 10}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["config.yaml", "run.json"]


def track_an_error(folder: RunFolder, error: BaseException) -> None:
    with folder.track():
        raise error


def test_the_record_says_how_a_run_ended(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "", "pretrain")
    with pytest.raises(ValueError, match="nan in loss"):
        track_an_error(folder, ValueError("nan in loss"))
    assert (record_of(tmp_path)["status"], record_of(tmp_path)["error"]) == ("failed", "ValueError: nan in loss")
    folder = RunFolder.create(tmp_path, "", "pretrain", resume=True)
    folder.start()
    assert record_of(tmp_path)["error"] is None
    with pytest.raises(KeyboardInterrupt):
        track_an_error(folder, KeyboardInterrupt())
    assert record_of(tmp_path)["status"] == "interrupted"
    with folder.track():
        pass
    assert record_of(tmp_path)["status"] == "finished"
    assert record_of(tmp_path)["finished"]


def test_timings_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 10.0, 11.5])
    folder = RunFolder.create(tmp_path, "", "record")
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: next(clock))
    for _ in range(2):
        with folder.timed("record"):
            pass
    assert record_of(tmp_path)["timings"] == {"record": 3.5}


def test_frames_are_saved_and_replaced(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "", "pretrain")
    for value in (1, 2):
        folder.save_frames("prediction", true=np.full((3, 64, 64, 3), value, np.uint8), context=2)
    with np.load(folder.frames / "prediction.npz") as arrays:
        assert (arrays["true"] == 2).all()
        assert int(arrays["context"]) == 2


def test_evaluations_beyond_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "", "finetune")
    assert folder.evaluations() == []
    for update in (10, 20, 30):
        folder.append_evaluation(
            EvaluationRecord(
                update=update,
                env_steps=10 * update,
                task="prelar/point-reach",
                returns=(1.0,),
                successes=(True,),
                success_rule="any step",
                policy="mode",
            )
        )
    keys = {"update", "env_steps", "task", "returns", "successes", "success_rule", "policy", "replaced", "checksum"}
    assert all(json.loads(line).keys() == keys for line in folder.evaluations_path.read_text().splitlines())
    folder.forget_evaluations_after(20)
    assert [row.update for row in folder.evaluations()] == [10, 20]


def test_a_folder_where_a_run_failed_to_start_can_be_used_again(tmp_path: Path) -> None:
    with pytest.raises(DataError), RunFolder.create(tmp_path / "run", "seed: 0\n", "pretrain").track():
        raise DataError("no such store")
    assert RunFolder.create(tmp_path / "run", "seed: 1\n", "pretrain").info["status"] == "running"


def begun(path: Path, **record: object) -> Path:
    """The folder of a run that collected and measured a little; its record says how far it came."""
    folder = RunFolder.create(path, "seed: 0\n", "finetune")
    for name in ("replay", "tensorboard", "checkpoints"):
        (path / name).mkdir()
        (path / name / ".000000000.tmp").touch()
    folder.metrics_path.write_text("{}\n")
    folder.update(**record)
    return path


GONE = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": 0.0}  # no process has so large a number
REPLACED = {"host": socket.gethostname(), "pid": os.getpid(), "started": 0.0}


@pytest.mark.parametrize(
    "record",
    [
        {"status": "interrupted"},
        {"status": "failed"},
        {"status": "running", "process": GONE},
        {"status": "running", "process": REPLACED},
    ],
)
def test_a_run_that_ended_before_its_first_checkpoint_is_started_again(
    tmp_path: Path, record: dict[str, object]
) -> None:
    path = begun(tmp_path / "run", **record)
    RunFolder.create(path, "seed: 1\n", "finetune")
    assert sorted(entry.name for entry in path.iterdir()) == ["config.yaml", "run.json"]
    assert record_of(path)["status"] == "running"
    assert "resumed" not in record_of(path)


@pytest.mark.parametrize(
    "record",
    [
        {"status": "finished"},
        {"status": "running"},  # by the process of this test
        {"status": "running", "process": {**GONE, "host": "elsewhere"}},
        {"status": "running", "process": None},
    ],
)
def test_a_run_that_may_still_be_under_way_or_has_finished_is_kept(tmp_path: Path, record: dict[str, object]) -> None:
    path = begun(tmp_path / "run", **record)
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.create(path, "seed: 1\n", "finetune")
    assert (path / "replay" / ".000000000.tmp").exists()


def test_a_trial_of_a_study_starts_again_what_no_process_is_using(tmp_path: Path) -> None:
    path = begun(tmp_path / "run", status="running", process={**GONE, "host": "elsewhere"})
    (path / "manifest.json").write_text("{}")
    RunFolder.create(path, "seed: 1\n", "finetune", abandoned=True)
    assert sorted(entry.name for entry in path.iterdir()) == ["config.yaml", "run.json"]


PARENT = {"host": socket.gethostname(), "pid": os.getppid(), "started": psutil.Process(os.getppid()).create_time()}


def test_a_run_that_another_process_is_at_work_in_cannot_be_resumed(tmp_path: Path) -> None:
    path = begun(tmp_path / "run", process=PARENT)
    before = (path / "run.json").read_bytes()
    with pytest.raises(RunFolderError, match=rf"/run: process {os.getppid()} on \S+ is using it; stop that first"):
        RunFolder.create(path, "seed: 1\n", "finetune", resume=True)
    assert (path / "run.json").read_bytes() == before
    RunFolder.create(path, "seed: 1\n", "finetune", resume=True, abandoned=True)


@pytest.mark.parametrize(
    "record",
    [
        {"status": "interrupted", "process": PARENT},
        {"status": "running"},  # by the process of this test
        {"status": "running", "process": GONE},
        {"status": "running", "process": REPLACED},
        {"status": "running", "process": None},  # as older versions leave it
    ],
)
def test_a_run_that_nobody_else_is_at_work_in_can_be_resumed(
    tmp_path: Path, record: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    RunFolder.create(begun(tmp_path / "run", **record), "seed: 1\n", "finetune", resume=True)
    assert not caplog.records


def test_a_run_that_may_be_under_way_on_another_host_is_resumed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = begun(tmp_path / "run", process={**PARENT, "pid": os.getpid(), "host": "elsewhere"})
    RunFolder.create(path, "seed: 1\n", "finetune", resume=True)
    assert f"process {os.getpid()} on elsewhere is using it; make sure that it is not" in caplog.text


@pytest.mark.parametrize("file", ["checkpoints/000000000/state.pt", "evaluations.jsonl", "thesis.txt"])
def test_an_interrupted_run_with_anything_to_lose_is_kept(tmp_path: Path, file: str) -> None:
    path = begun(tmp_path / "run", status="interrupted")
    (path / file).parent.mkdir(exist_ok=True)
    (path / file).touch()
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.create(path, "seed: 1\n", "finetune")
    assert (path / file).exists()
    assert (path / "metrics.jsonl").exists()


def test_the_newest_checkpoint_is_named(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "", "pretrain")
    assert folder.last_checkpoint() is None
    for name in ("000000009", "000000010", ".000000011.tmp"):
        (folder.checkpoints / name).mkdir(parents=True)
    assert folder.last_checkpoint() == folder.checkpoints / "000000010"


@pytest.mark.parametrize("made", ["checkpoints/best/state.pt", "replay -> elsewhere"])
def test_what_a_run_does_not_make_is_never_removed(tmp_path: Path, made: str) -> None:
    folder = RunFolder.create(tmp_path / "run", "seed: 0\n", "pretrain")
    with pytest.raises(DataError), folder.track():
        raise DataError("disk full")
    if "->" in made:
        (tmp_path / "elsewhere").mkdir()
        folder.replay.symlink_to(tmp_path / "elsewhere")
    else:
        (folder.path / made).parent.mkdir(parents=True)
        (folder.path / made).touch()
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.create(folder.path, "seed: 0\n", "pretrain")
    assert (tmp_path / "elsewhere").exists() or (folder.path / made).exists()


def test_a_write_that_was_cut_off_is_nothing_to_lose(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "seed: 0\n", "pretrain")
    with pytest.raises(DataError), folder.track():
        raise DataError("disk full")
    (folder.path / "run.json.tmp").touch()
    (folder.checkpoints / ".000000001.tmp").mkdir(parents=True)
    assert RunFolder.create(folder.path, "seed: 1\n", "pretrain").info["status"] == "running"


def test_a_folder_where_a_run_failed_after_it_made_something_is_kept(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "seed: 0\n", "pretrain")
    (folder.checkpoints / "000000001").mkdir(parents=True)
    with pytest.raises(DataError), folder.track():
        raise DataError("disk full")
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.create(tmp_path / "run", "seed: 1\n", "pretrain")


def with_lines(path: Path) -> RunFolder:
    """A run with three lines of metrics and three evaluations, up to update 30."""
    folder = RunFolder.create(path, "", "finetune")
    for update in (10, 20, 30):
        append_json_line(folder.metrics_path, {"update": update, "env_steps": 0, "time": 0.0})
        evaluation = {"update": update, "env_steps": update, "task": "t", "returns": [1.0], "successes": [True]}
        append_json_line(folder.evaluations_path, evaluation | {"success_rule": "any step", "policy": "mode"})
    return folder


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (lambda content: b"", 3),
        (lambda content: b"\0" * len(content), 3),
        (lambda content: content[:-5], 1),
        (lambda content: content[content.index(b"\n") + 1 :], 1),
        (None, 3),
    ],
    ids=["emptied", "zeroed", "cut", "first line lost", "removed"],
)
def test_lines_that_are_missing_at_a_resume_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[bytes], bytes] | None, missing: int
) -> None:
    folder = with_lines(tmp_path)
    noted = folder.sync_lines()
    assert noted == {"metrics.jsonl": 3, "evaluations.jsonl": 3}
    folder.warn_of_missing_lines(noted, 30)
    assert caplog.text == ""
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if damage is not None:
        (tmp_path / name).write_bytes(damage(content))
    folder.warn_of_missing_lines(noted, 30)
    assert len(caplog.records) == 1
    assert f"{name}: {missing} line" in caplog.text


def test_lines_after_the_checkpoint_are_none_that_are_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_lines(tmp_path).warn_of_missing_lines({"metrics.jsonl": 2}, 20)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "change",
    [
        {"status": "ready"},
        {"phase": 1},
        {"timings": {"finetune": "1"}},
        {"timings": {"finetune": -1}},
        {"summary": {"return": {}}},
        {"versions": {"torch": 2}},
        {"hardware": {"gpus": "none"}},
        {"resumed": 3},
        {"process": {"host": "h", "pid": -1, "started": 0.0}},
    ],
)
def test_a_record_with_a_value_of_another_type_is_refused_by_key(tmp_path: Path, change: dict[str, object]) -> None:
    RunFolder.create(tmp_path, "", "finetune").update(**change)
    with pytest.raises(DataError, match=rf"run.json: {next(iter(change))}"):
        RunFolder.open(tmp_path)


def test_a_configuration_that_was_changed_is_said_at_a_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    RunFolder.create(tmp_path, "seed: 1\n", "finetune").update(status="interrupted")
    RunFolder.create(tmp_path, "seed: 1\n", "finetune", resume=True)
    assert caplog.text == ""
    (tmp_path / "config.yaml").write_text("seed: 7\n")
    RunFolder.create(tmp_path, "seed: 7\n", "finetune", resume=True)
    assert "config.yaml: was changed since the run wrote it" in caplog.text


def test_temporary_files_of_a_killed_run_are_removed_when_it_starts(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "", "finetune").update(status="interrupted")
    (tmp_path / ".run.json.0123456789ab.tmp").touch()
    folder = RunFolder.create(tmp_path, "", "finetune", resume=True)
    folder.start()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.yaml", "run.json"]
