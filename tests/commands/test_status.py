from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from prelar_ray.commands import status
from prelar_ray.errors import DataError
from prelar_ray.watching.folders import look_at
from prelar_ray.watching.records import StatusReport
from tests.watching.folders import (
    BEGAN,
    begin,
    drive,
    finish,
    gone_process,
    kill,
    make_study,
    write_evaluation,
    write_lines,
)

PRE, FIRST, SECOND = "pretrain/prelar/seed-0", "finetune/prelar/seed-0", "finetune/dreamerv2/seed-0"

HEAD = """
import socket, sys
import ray
from ray.cluster_utils import Cluster

def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]

port, here = free_port(), "127.0.0.1"
cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 1, "node_ip_address": here, "include_dashboard": True, "dashboard_host": here,
    "dashboard_port": port, "dashboard_agent_listen_port": free_port(),
})
ray.init(cluster.address, log_to_driver=False)

@ray.remote(num_cpus=1)
class Busy:
    def begin(self): pass

busy = Busy.remote()
ray.get(busy.begin.remote())
print(port, flush=True)
sys.stdin.read()
ray.shutdown()
cluster.shutdown()
"""
"""A Ray on loopback whose only CPU is taken; prints the port of its dashboard, and ends with its standard input."""


@pytest.fixture(autouse=True)
def _nowhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run is where the command looks by itself, and the time is that of the runs that tests make."""
    monkeypatch.chdir(tmp_path_factory.mktemp("nowhere"))
    monkeypatch.delenv(status.STORAGE, raising=False)
    monkeypatch.setattr("prelar_ray.watching.folders.time.time", lambda: BEGAN + 1000)
    monkeypatch.setattr("prelar_ray.watching.folders.utc_now", lambda: "2027-01-15T08:16:40+00:00")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A pre-training has finished, a fine-tuning runs, and one failed."""
    path = make_study(tmp_path / "runs" / "study", PRE, SECOND, FIRST, "finetune/prelar/seed-1")
    finish(begin(path / "runs" / PRE, "pretrain"), 400)
    folder = begin(path / "runs" / FIRST)
    write_lines(folder, [(890, 150), (990, 250)], **{"train/episode_return": 12.34, "train/episode_success": 0.5})
    write_evaluation(folder, [20.0], [True])
    (path / "failures.json").write_text(json.dumps({SECOND: "DataError: [no] disk"}))
    drive(path)
    return path


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed, with one space between words and without the frames of tables."""
    return [" ".join(re.sub("[┃│]", " ", line).split()) for line in capsys.readouterr().out.splitlines()]


def test_a_study_is_shown_with_its_runs_by_what_matters(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(study)]) == 0
    said = lines_of(capsys)
    assert f"study-name {study}" in said
    assert any(line.startswith(f"driven by process {os.getpid()} on ") for line in said)
    counts = "4 runs: 1 finished, 1 running, 1 pending (1 finetune), 1 failed"
    assert f"{counts}; 0:16:40 elapsed, about 0:41:40 left" in said
    rows = [line for line in said if line.startswith(("pretrain ", "finetune "))]
    assert rows == [
        "finetune prelar prelar/point-reach 0 250/1 000 25% 1 env steps/s 12.3 (eval 20.0) 0.50 (eval 1.00) "
        "0:12:30 0:00:10 running",
        "finetune dreamerv2 prelar/point-reach 0 failed: DataError: [no] disk",
        "pretrain prelar 0 finished 0:10:00 ago",
    ]


def test_what_needs_help_comes_with_the_command_that_gives_it(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive(study, gone := gone_process())
    kill(alone := begin(tmp_path / "runs" / "alone"))
    write_lines(begin(tmp_path / "runs" / "quiet"), [(10, 10), (20, 20)])
    (study / "inputs.json").write_text('{"inputs": [], "cluster": "head:6379"}')
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "run.json").write_text("{")
    assert status.main([str(tmp_path / "runs")]) == 0
    said = lines_of(capsys)
    assert any(
        re.match(rf"no process drives it: process {gone['pid']} on \S+ since \S+ is gone$", line) for line in said
    )
    assert "2 runs of no study: 1 running, 1 interrupted" in said
    assert any(line.endswith("0:16:20 silent for 0:16:20") for line in said)
    pid = alone.info["process"]["pid"]
    assert any(line.endswith(f"interrupted: its process {pid} is gone") for line in said)
    assert any(line.startswith(f"{tmp_path}/runs/damaged/run.json: cannot be read") for line in said)
    assert said[-2:] == [
        f"resume: prelar-ray tune {study}/study.yaml --out {study} --resume --cluster head:6379 --retry-failed",
        f"resume: prelar-ray finetune --resume --out {alone.path}",
    ]


def test_the_last_runs_that_ended_are_shown_and_the_others_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(13):
        finish(begin(tmp_path / f"run-{number:02d}"), number)
    assert status.main([str(tmp_path)]) == 0
    said = lines_of(capsys)
    shown = [found[0] for line in said if (found := re.search(r"run-\d\d", line))]
    assert shown == [f"run-{number:02d}" for number in range(12, 2, -1)]
    assert "3 more that ended before; --json has all" in said


def test_json_has_all_of_it_in_one_line(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(study), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    report = StatusReport.model_validate_json(line)
    assert report.cluster is None
    (found,) = report.studies
    assert found.counts == {"finished": 1, "running": 1, "pending": 1, "failed": 1}
    assert [(run.name, run.status, run.done) for run in found.runs] == [
        (PRE, "finished", None),
        (SECOND, "failed", None),
        (FIRST, "running", 250),
    ]


def test_finished_runs_as_training_leaves_them_show_their_scores(
    finetuned: Path, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main([str(finetuned), str(pretrained), "--json"]) == 0
    fine, pre = json.loads(capsys.readouterr().out)["runs"]
    assert (fine["phase"], fine["status"], fine["task"]) == ("finetune", "finished", "prelar/point-reach")
    assert fine["evaluation_return"] is not None
    assert fine["seconds"] > 0
    assert (pre["phase"], pre["status"], pre["task"], pre["evaluation_return"]) == ("pretrain", "finished", None, None)


def test_without_folders_the_shared_one_is_looked_at_and_else_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    refused: Callable[..., str],
) -> None:
    error = refused(status.main, code=2)
    assert (
        error
        == "error: there is no folder runs here and PRELAR_STORAGE is not set; name a study, a run or their folder\n"
    )
    begin(Path("runs/here"))
    begin(tmp_path / "shared" / "there")

    def seen(*words: str) -> list[str]:
        assert status.main([*words, "--json"]) == 0
        return [Path(run["path"]).name for run in json.loads(capsys.readouterr().out)["runs"]]

    assert seen() == ["here"]
    monkeypatch.setenv(status.STORAGE, str(tmp_path / "shared"))
    assert seen() == ["there"]
    assert seen("runs") == ["here"]


def test_a_missing_folder_and_one_without_runs_end_with_2(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "gone: no such folder" in refused(status.main, tmp_path / "gone", code=2)
    assert "holds no study and no run" in refused(status.main, tmp_path, code=2)


def test_it_is_shown_again_until_ctrl_c(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("prelar_ray.commands.status.time.sleep", wait)
    assert status.main([str(study), "--json", "--every", "0.5"]) == 0
    assert waits == [0.5] * 3
    assert [len(json.loads(line)["studies"]) for line in capsys.readouterr().out.splitlines()] == [1, 1, 1]
    waits.clear()
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal then
    assert status.main([str(study), "--every", "2"]) == 0
    assert capsys.readouterr().out.count("study-name") >= 3


def test_an_answer_that_fails_leaves_the_last_one_and_ends_nothing(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers, looked = iter([None, DataError("the head restarts"), None]), look_at

    def look(paths: Sequence[Path]) -> StatusReport:
        error = next(answers, KeyboardInterrupt())
        if error:
            raise error
        return looked(paths)

    monkeypatch.setattr("prelar_ray.commands.status.look_at", look)
    monkeypatch.setattr("prelar_ray.commands.status.time.sleep", lambda seconds: None)
    assert status.main([str(study), "--json", "--every", "1"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["problems"] for one in shown] == [[], ["as of 2027-01-15T08:16:40+00:00: the head restarts"], []]
    assert len(shown[1]["studies"]) == 1


@pytest.mark.parametrize("head", ["ftp://head", "head:70000", "http://head/path", "user@head", ""])
def test_what_is_no_address_of_a_dashboard_is_refused(head: str, refused: Callable[..., str]) -> None:
    assert "HOST:8265" in refused(status.main, f"--cluster={head}", code=2)


def test_where_nobody_listens_it_is_said_what_to_do(refused: Callable[..., str]) -> None:
    error = refused(status.main, "--cluster", "127.0.0.1:1", code=1)
    assert error.startswith("error: http://127.0.0.1:1: nobody answers there (")
    assert "ssh -L 8265:localhost:8265 HEAD" in error


@pytest.fixture
def head(tmp_path: Path, study: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of the dashboard of a cluster that asks for the token, and whose shared folder holds the study."""
    token, program = tmp_path / "token", tmp_path / "bin" / "prelar-ray"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m prelar_ray "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else what runs jobs looks for 127.0.0.1 at another address
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        status.STORAGE: str(study.parent),
    }
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-c", HEAD]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        process = subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]
    try:
        port = process.stdout.readline()
        assert port, (tmp_path / "log").read_text()
        yield int(port)
    finally:
        process.communicate(timeout=60)


@pytest.mark.cluster
def test_the_head_of_a_full_cluster_is_asked_over_its_dashboard(
    head: int, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused
) -> None:
    from prelar_ray.distributed.dashboard import Dashboard

    address = f"http://127.0.0.1:{head}"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # which Ray's own client would take instead
    assert status.main(["--cluster", address, "--json"]) == 0
    report = StatusReport.model_validate_json(capsys.readouterr().out)
    assert [found.path for found in report.studies] == [str(study)]
    assert report.studies[0].counts["running"] == 1
    assert report.cluster is not None
    assert report.cluster.address == address
    (node,) = report.cluster.nodes
    assert (node.cpus_used, node.cpus, node.gpus_used, node.gpus) == (1.0, 1.0, 0.0, 0.0)
    (job,) = report.cluster.jobs
    assert job.entrypoint.startswith(sys.executable)
    assert status.main(["--cluster", f"127.0.0.1:{head}", str(study)]) == 0
    said = lines_of(capsys)
    assert f"cluster {address}" in said
    assert any(line.startswith(f"job {job.id} runs for ") for line in said)

    error = refused(status.main, "--cluster", address, "/gone", code=1)
    assert error.startswith(f"error: {address}: prelar-ray status --json /gone failed there: /gone: no such folder")
    (tmp_path / "bin" / "prelar-ray").rename(tmp_path / "elsewhere")
    assert "prelar-ray is not on the PATH of the cluster" in refused(status.main, "--cluster", address, code=1)
    jobs = Dashboard(address)._client.list_jobs()
    assert [one.submission_id for one in jobs] == [None], "only the driver is left in the list of jobs"

    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    assert "refuses the token of RAY_AUTH_TOKEN" in refused(status.main, "--cluster", address, code=1)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    assert f"copy ~/.ray/auth_token of the head to {tmp_path}/none" in refused(
        status.main, "--cluster", address, code=1
    )
