"""What ends a run from outside: signals of terminals and batch systems, and readers of the log that leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.commands import finetune
from prelar_ray.interrupts import interrupts_deferred, stopping_signals
from prelar_ray.storage.locks import FileLock
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics

CODES = {signal.SIGTERM: 130, signal.SIGHUP: 130, signal.SIGUSR1: 75}


@pytest.mark.parametrize(("number", "code"), CODES.items(), ids=lambda value: str(value))
def test_each_signal_interrupts_between_steps_and_has_its_exit_code(
    number: signal.Signals, code: int, refused: Callable[..., str]
) -> None:
    done = []

    def command(argv: object) -> int:
        with interrupts_deferred():
            os.kill(os.getpid(), number)
            done.append("the whole step")
        return 0

    assert refused(command, code=code) == "interrupted\n"
    assert done == ["the whole step"]


def test_what_the_process_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        with stopping_signals() as came, interrupts_deferred():
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
        assert came == []
    finally:
        signal.signal(signal.SIGHUP, before)


def training(settings: str, out: Path, **streams: int) -> subprocess.Popen[bytes]:
    """A training in a process of its own that runs until it is stopped; it has made an update."""
    line = ["--config", settings, "--out", str(out), "finetune.env_steps=1000000", "finetune.random_steps=300"]
    process = subprocess.Popen([sys.executable, "-m", "prelar_ray", "finetune", *line], **streams)
    deadline = time.monotonic() + 100
    while not (out / "metrics.jsonl").exists() or not read_metrics(out / "metrics.jsonl"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_a_run_whose_log_nobody_reads_goes_on_to_its_checkpoint_and_asks_to_be_queued_again(
    settings: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    reader, writer = os.pipe()
    os.close(reader)
    process = training(settings, out, stdout=writer, stderr=writer)
    os.close(writer)
    os.kill(process.pid, signal.SIGUSR1)
    assert process.wait(100) == 75
    info = RunFolder.open(out).info
    assert info["status"] == "interrupted"
    assert info["lost_log"]["reason"] == "standard error: Broken pipe"
    assert load_checkpoint(out).update >= 1
    assert not (out / ".lock").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_closed_terminal_and_a_kill_leave_a_checkpoint(settings: str, tmp_path: Path, number: int) -> None:
    process = training(settings, tmp_path / "run", stderr=subprocess.DEVNULL)
    os.kill(process.pid, number)
    assert process.wait(100) == 130
    assert RunFolder.open(tmp_path / "run").info["status"] == "interrupted"
    assert load_checkpoint(tmp_path / "run").update >= 1


@pytest.mark.nightly
def test_of_two_resumes_at_once_one_runs_and_the_other_is_told_who_does_until_it_is_killed(
    settings: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = training(settings, out, stderr=subprocess.DEVNULL)
    resume = [sys.executable, "-m", "prelar_ray", "finetune", "--resume", "--out", str(out)]
    second = subprocess.run(resume, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert f"error: {out}: process {first.pid} on " in second.stderr
    first.kill()
    first.wait()
    third = subprocess.run([*resume, "finetune.env_steps=1"], capture_output=True, text=True, check=False)
    assert "is using it" not in third.stderr
    assert "finetune.env_steps" in third.stderr


def test_a_resume_reads_nothing_of_a_run_that_another_process_is_at_work_in(
    settings: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    out = tmp_path / "run"
    RunFolder.create(out, "seed: 0\n", "finetune").update(status="interrupted")
    (out / "config.yaml").write_text("seed: [half")
    program = f"from pathlib import Path; from {FileLock.__module__} import FileLock\n"
    program += f"lock = FileLock(Path({str(out / '.lock')!r})); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        said = refused(finetune.main, "--out", out, "--resume", code=2)
        other.kill()
    assert f"error: {out}: process {other.pid} on " in said
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert "config.yaml: not valid YAML" in refused(finetune.main, "--out", out, "--resume", code=2)


def test_changes_are_accepted_for_a_resume_alone(settings: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    line = ("--config", settings, "--out", tmp_path / "run", "--accept-changes")
    assert "--accept-changes is for --resume" in refused(finetune.main, *line, code=2)
