"""Who holds a folder: one process at a time, known by name, until it ends however that is."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import prelar_ray
from prelar_ray.errors import RunFolderError
from prelar_ray.storage.locks import FileLock, HeldError, hold
from prelar_ray.storage.processes import this_process
from prelar_ray.storage.run_folder import RunFolder

ROOT = Path(prelar_ray.__file__).parents[1]


def python(program: str) -> subprocess.Popen[str]:
    start = f"import sys; from pathlib import Path; from prelar_ray.storage.locks import FileLock\n{program}"
    return subprocess.Popen(
        [sys.executable, "-c", start], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that holds a lock until it is ended."""
    process = python(f"lock = FileLock(Path({str(path)!r})); print('held', flush=True); input()")
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_holds_the_lock_and_kill_9_releases_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as other:
        with pytest.raises(HeldError) as caught:
            FileLock(path)
        record: dict[str, Any] = caught.value.holder  # type: ignore[assignment]
        assert (record["pid"], record["host"]) == (other.pid, this_process()["host"])
        assert record["since"].startswith("20")
        assert f"process {other.pid} on {record['host']} since {record['since']}" in str(caught.value)
        os.kill(other.pid, signal.SIGKILL)
    assert path.exists()
    lock = FileLock(path)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lock.release()
    assert not path.exists()


def test_the_lock_holds_whatever_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as other:
        for content in ("", json.dumps({"host": this_process()["host"], "pid": 2**22 + 1, "started": 0.0})):
            path.write_text(content)
            with pytest.raises(HeldError):
                FileLock(path)
        other.kill()


def test_of_several_that_come_at_the_same_instant_one_wins(tmp_path: Path) -> None:
    program = f"""
input()
try:
    lock = FileLock(Path({str(tmp_path / "lock")!r}))
    print("won", flush=True)
except BlockingIOError:
    print("lost", flush=True)
input()
"""
    processes = [python(program) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.stdout.readline() for process in processes if process.stdout]
    for process in processes:
        process.communicate("\n", timeout=30)
    assert sorted(said) == ["lost\n", "lost\n", "won\n"]


def test_what_nobody_refers_to_any_more_is_released(tmp_path: Path) -> None:
    lock = hold(tmp_path / "lock")
    assert hold(tmp_path / "." / "lock") is lock
    del lock
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_takes_no_lock_away(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    if (child := os.fork()) == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "lock").exists()
    with pytest.raises(HeldError):
        FileLock(tmp_path / "lock")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "thesis")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock(tmp_path / "lock")
    assert (tmp_path / "thesis").read_text() == "precious"


def test_where_a_file_system_has_no_locks_the_record_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*args: Any) -> None:
        raise OSError(38, "Function not implemented")

    path = tmp_path / "lock"
    monkeypatch.setattr(fcntl, "flock", none)
    parent = psutil.Process(os.getppid())
    living = {"host": this_process()["host"], "pid": parent.pid, "started": parent.create_time()}
    for record in (living, {"host": "elsewhere", "pid": 1, "started": 0.0}):
        path.write_text(json.dumps(record))
        with pytest.raises(HeldError, match=f"process {record['pid']} on {record['host']} holds this lock"):
            FileLock(path)
    path.write_text(json.dumps(living | {"started": 0.0}))
    lock = FileLock(path)
    assert lock.left is None
    assert "has no locks (Function not implemented)" in caplog.text


def test_what_another_host_left_is_taken_over_and_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0}))
    left = FileLock(path).left
    assert left is not None
    assert left["host"] == "elsewhere"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 1, "pid": [], "started": {}}', b"\xff" * 20_000])
def test_a_record_that_cannot_be_read_keeps_nobody_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lock").write_bytes(content)
    assert FileLock(tmp_path / "lock").held


# The lock of a run


def test_neither_a_new_run_nor_a_resume_begins_in_a_folder_that_another_process_is_at_work_in(tmp_path: Path) -> None:
    run = tmp_path / "run"
    RunFolder.create(run, "seed: 0\n", "finetune").update(status="interrupted")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with holder(run / ".lock") as other:
        for resume in (True, False):
            with pytest.raises(RunFolderError, match=rf"run: process {other.pid} on \S+ since \S+ is using it; stop"):
                RunFolder.create(run, "seed: 1\n", "finetune", resume)
        other.kill()
    RunFolder.create(run, "seed: 0\n", "finetune", resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_of_two_new_runs_at_the_same_instant_one_wins(tmp_path: Path) -> None:
    program = f"""
from prelar_ray.errors import RunFolderError
from prelar_ray.storage.run_folder import RunFolder
input()
try:
    run = RunFolder.create(Path({str(tmp_path / "run")!r}), "seed: 0\\n", "finetune")
    print("won", flush=True)
except RunFolderError as error:
    print("lost", error, flush=True)
input()
"""
    processes = [python(program) for _ in range(2)]
    time.sleep(1.0)  # both have imported what they need
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = sorted(process.stdout.readline() for process in processes if process.stdout)
    for process in processes:
        process.communicate("\n", timeout=30)
    assert said[1] == "won\n"
    assert said[0].startswith("lost")
    assert "is using it" in said[0] or "already holds a run" in said[0]


def test_a_trial_waits_for_a_lock_that_ends_with_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    other = holder(run / ".lock")
    monkeypatch.setattr("prelar_ray.storage.run_folder.time.sleep", lambda seconds: (other.kill(), other.wait()))
    assert RunFolder.create(run, "", "finetune", abandoned=True).info["status"] == "running"


def test_a_name_too_long_for_a_file_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"^x{40}\.\.\.: a name of 300 bytes, and file systems take 255; choose"):
        RunFolder.create(tmp_path / ("x" * 300), "", "finetune")
