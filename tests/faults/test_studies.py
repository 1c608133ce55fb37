"""A study whose driver is killed, and one that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from prelar_ray.storage.run_folder import RunFolder
from tests.commands.test_tune import STAGES, runs, sweep_file
from tests.faults.runs import gone, note

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.nightly, pytest.mark.timeout(900)]


def start(sweep: Path, out: Path, *words: str) -> subprocess.Popen[bytes]:
    with (out.parent / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", "prelar_ray", "tune", str(sweep), "--out", str(out), *words]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def wait_for(process: subprocess.Popen[bytes], out: Path, finished: int) -> dict[str, str]:
    """Wait until so many runs have finished and another is at work."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        assert process.poll() is None, (out.parent / "log.txt").read_text()
        try:
            found = runs(out)
        except (OSError, json.JSONDecodeError):
            continue
        if list(found.values()).count("finished") >= finished and "running" in found.values():
            return found
        time.sleep(0.2)
    raise AssertionError("waited in vain")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_a_study_resumes_where_its_driver_was_ended(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "study"
    sweep = sweep_file(tmp_path, STAGES.replace("seeds: [0]", "seeds: [0, 1]"))
    process = start(sweep, out)
    before = wait_for(process, out, finished=2)
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, number)
    code = process.wait(120)
    assert code == (-9 if number == signal.SIGKILL else 130)
    assert gone(family, seconds=180)  # the dashboard takes its time
    written = {
        name: (out / "runs" / name / "run.json").stat().st_mtime_ns for name, s in before.items() if s == "finished"
    }
    started = time.monotonic()
    assert start(sweep, out, "--resume").wait(600) == 0, (out.parent / "log.txt").read_text()
    assert list(runs(out).values()) == ["finished"] * 5
    for name, at in written.items():
        assert (out / "runs" / name / "run.json").stat().st_mtime_ns == at, "what had finished is not run again"
    note(
        f"{number.name} of a study's driver, --resume", 1, time.monotonic() - started, "nothing", "all 5 runs finished"
    )


def test_ctrl_c_waits_for_the_checkpoint_of_a_run_whose_lines_are_far_apart(tmp_path: Path) -> None:
    out = tmp_path / "study"
    stages = "finetune: {methods: [dreamerv2], tasks: [prelar/point-reach], seeds: [0]}"
    sweep = sweep_file(tmp_path, stages)
    study = yaml.safe_load(sweep.read_text())
    study["settings"] |= {
        "finetune.env_steps": 8000,
        "telemetry.every_updates": 10**6,
        "checkpoint.every_updates": 10**6,
    }
    study["settings"] |= {"evaluation.every_env_steps": 10**6, "replay.capacity_steps": 10_000}
    sweep.write_text(yaml.safe_dump(study))
    process = start(sweep, out)
    wait_for(process, out, finished=0)
    (run,) = (out / "runs").glob("finetune/*/*/*/seed-0")
    while not any((run / "replay").rglob("*.arrow")):
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(300) == 130
    assert list(runs(out).values()) == ["interrupted"]
    checkpoint = RunFolder.open(run).last_checkpoint()
    assert checkpoint is not None
    assert int(checkpoint.name) > 0
