from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.commands import finetune
from prelar_ray.config import RunConfig, load_config
from prelar_ray.envs.point_reach import PointReach
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.training.replays import ReplayGroup

Refused = Callable[..., str]

pytestmark = pytest.mark.usefixtures("short_episodes")


def test_a_run_leaves_its_files_and_names_the_next_command(
    settings: str, pretrained: Path, tmp_path: Path, minute_config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert finetune.main(["--config", settings, "--init", str(pretrained), "--out", str(out), "seed=2"]) == 0
    found = {path.name for path in out.iterdir()}
    assert found == {
        "run.json",
        "config.yaml",
        "metrics.jsonl",
        "evaluations.jsonl",
        "tensorboard",
        "checkpoints",
        "replay",
        "frames",
    }
    assert load_config(None, out / "config.yaml") == load_config(None, None, ["seed=2"], base=minute_config)
    assert RunFolder.open(out).info["status"] == "finished"
    said = capsys.readouterr().err
    assert "finetune: 80/80 env steps, done" in said
    assert f"next: prelar-ray evaluate {out} --film film.mp4\n      prelar-ray report {out}\n" in said


def test_a_run_says_what_it_is_before_it_begins(
    settings: str, pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, short = tmp_path / "run", "finetune.env_steps=60"
    with caplog.at_level(logging.INFO):
        assert finetune.main(["--config", settings, "--init", str(pretrained), "--out", str(out), short]) == 0
    start = f"from {pretrained}/checkpoints/000000005"
    assert caplog.messages[0] == f"finetune: prelar/point-reach, method prelar, device cpu, {start}, in {out}"


def test_a_run_from_scratch_needs_no_pretraining(settings: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert finetune.main(["--config", settings, "--out", str(out), "finetune.env_steps=65"]) == 0
    assert load_checkpoint(out).update == 3


def test_an_environment_that_nothing_can_be_learnt_in_is_refused_before_a_folder_is_made(
    settings: str, tmp_path: Path, refused: Refused
) -> None:
    out, task = tmp_path / "run", "env.task=gym/tests.envs.own_world:Track-v0"
    said = refused(finetune.main, "--config", settings, "--out", out, task, "env.time_limit=2", code=2)
    assert "episodes have 3 rows at most, fewer than finetune.segment_length=" in said
    assert not out.exists()


def test_resume_continues_with_the_configuration_of_the_run(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    sample = ReplayGroup.sample

    def crashing(self: ReplayGroup, updates: int = 1) -> object:
        if self.limiter.updates >= 4:
            raise RuntimeError("power cut")
        return sample(self, updates)

    with monkeypatch.context() as patch:
        patch.setattr(ReplayGroup, "sample", crashing)
        with pytest.raises(RuntimeError, match="power cut"):
            finetune.main(["--config", settings, "--out", str(out), "seed=7"])
    assert RunFolder.open(out).info["status"] == "failed"
    reached = load_checkpoint(out).update
    assert reached in (2, 4)
    with caplog.at_level(logging.INFO):  # what was started from is behind it, whether it still exists or not
        assert finetune.main(["--out", str(out), "--resume", "--init", "gone"]) == 0
    assert f"--init gone is not read: --resume resumes from the last checkpoint in {out}" in caplog.text
    assert load_config(None, out / "config.yaml").seed == 7
    assert load_checkpoint(out).update == 6
    updates = [row["update"] for row in read_metrics(out / "metrics.jsonl") if "loss/total" in row]
    assert updates == sorted(set(updates))


def test_a_folder_of_another_run_is_refused(settings: str, finetuned: Path, refused: Refused) -> None:
    before = {path: path.read_bytes() for path in finetuned.rglob("*") if path.is_file()}
    error = refused(finetune.main, "--config", settings, "--out", finetuned, code=2)
    assert error == (
        f"error: {finetuned}: already holds a run; --resume --out {finetuned} alone continues it with its own "
        "settings, else choose a new --out\n"
    )
    assert {path: path.read_bytes() for path in finetuned.rglob("*") if path.is_file()} == before


def test_a_folder_without_a_run_cannot_be_resumed(settings: str, tmp_path: Path, refused: Refused) -> None:
    error = refused(finetune.main, "--config", settings, "--out", tmp_path / "run", "--resume", code=2)
    assert "there is no run to --resume" in error


def test_that_a_resume_asks_for_another_task_is_said_before_what_is_wrong_with_that(
    settings: str, finetuned: Path, refused: Refused
) -> None:
    task, long = "env.task=gym/tests.envs.own_world:Track-v0", "finetune.segment_length=70"
    error = refused(finetune.main, "--config", settings, "--resume", "--out", finetuned, task, long, code=2)
    assert f"made with env.task=prelar/point-reach (here {task.removeprefix('env.task=')})" in error


def test_without_a_folder_nothing_begins(settings: str, refused: Refused) -> None:
    assert "--out DIR is required" in refused(finetune.main, "--config", settings, code=2)


@pytest.mark.render  # naming the nearest tasks loads the simulators
def test_an_unknown_task_is_refused_before_the_folder_is_made(settings: str, tmp_path: Path, refused: Refused) -> None:
    line = ["--config", settings, "--task", "prelar/point-reech", "--out", tmp_path / "run"]
    error = refused(finetune.main, *line, code=2)
    assert error.splitlines()[-1].startswith(
        "error: env.task=prelar/point-reech: no such task; did you mean prelar/point-reach"
    )
    assert not (tmp_path / "run").exists()


def test_a_start_from_something_that_is_no_pretraining_is_refused(
    settings: str, finetuned: Path, pretrained: Path, tmp_path: Path, refused: Refused
) -> None:
    line = ["--config", settings, "--out"]
    error = refused(finetune.main, *line, tmp_path / "1", "--init", finetuned, code=2)
    assert f"error: {finetuned}/checkpoints/000000006: a finetune checkpoint; --init takes a pretrain one" in error
    error = refused(finetune.main, *line, tmp_path / "2", "--init", tmp_path / "nowhere", code=2)
    assert f"error: {tmp_path}/nowhere: no such folder" in error
    error = refused(finetune.main, *line, tmp_path / "3", "--init", pretrained, "world_model.rssm.deter=12", code=2)
    assert error == (
        f"error: --init {pretrained}: made with world_model.rssm.deter=8 (here 12); "
        f"use --config {pretrained}/config.yaml and leave world_model.rssm.deter out, or pre-train with "
        "world_model.rssm.deter=12\n"
    )
    error = refused(finetune.main, "--method", "apv", "--init", pretrained, "--out", tmp_path / "4", code=2)
    assert error == f"error: --init {pretrained}: a pre-training of method prelar, this is apv; add --method prelar\n"
    assert list(tmp_path.iterdir()) == []


def test_the_command_that_pretraining_suggests_works(pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = ["--init", str(pretrained), "--config", str(pretrained / "config.yaml"), "--out", str(out)]
    assert finetune.main([*line, "finetune.env_steps=60"]) == 0


def test_ctrl_c_before_the_first_checkpoint_leaves_a_folder_in_which_the_same_command_starts_again(
    settings: str, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    line = ["--config", settings, "--out", str(out), "finetune.env_steps=60"]
    with monkeypatch.context() as patch:
        patch.setattr(FinetuneLearner, "__init__", lambda *_, **__: signal.raise_signal(signal.SIGINT))
        error = refused(finetune.main, *line, code=130)
    assert error.endswith("no checkpoint yet; the same command starts again\ninterrupted\n")
    assert (out / "replay").is_dir()
    assert finetune.main(line) == 0


def test_a_run_that_fails_says_what_to_mend_what_it_kept_and_how_to_continue(
    settings: str, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, taken, advance = tmp_path / "my run", itertools.count(), PointReach._advance

    def overheats(self: PointReach, action: Any) -> tuple[float, bool, bool]:
        if next(taken) > 40:
            raise RuntimeError("motor 2 overheated")
        return advance(self, action)

    with monkeypatch.context() as patch:
        patch.setattr(PointReach, "_advance", overheats)
        error = refused(finetune.main, "--config", settings, "--out", out, code=1)
    said, kept = error.splitlines()[-2:]
    assert said.endswith("RuntimeError: motor 2 overheated; mend the environment, or correct env.task and env.kwargs")
    assert kept == (
        f"kept: {out}/checkpoints/000000000; when that is mended, prelar-ray finetune --resume --out '{out}' "
        "continues from there"
    )
    error = refused(finetune.main, "--config", settings, "--out", out, code=2)  # before its first update, too
    assert f"already holds a run; --resume --out '{out}' alone continues it with its own settings" in error
    error = refused(finetune.main, "--resume", "--out", out, "seed=5", code=2)
    assert "kept:" not in error  # what was not begun has not failed
    assert finetune.main(["--resume", "--out", str(out)]) == 0


def test_a_resume_names_another_pretraining_than_the_run_started_from(
    settings: str, pretrained: Path, tmp_path: Path, refused: Refused, caplog: pytest.LogCaptureFixture
) -> None:
    out, other = tmp_path / "run", tmp_path / "other"
    short = ["finetune.env_steps=60"]
    assert finetune.main(["--config", settings, "--init", str(pretrained), "--out", str(out), *short]) == 0
    shutil.copytree(pretrained, other)
    with caplog.at_level(logging.INFO):
        assert finetune.main(["--resume", "--init", str(other), "--out", str(out)]) == 0  # the same, elsewhere
    assert f"--init {other} is not read" in caplog.text
    meta = other / "checkpoints" / "000000005" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"sha256": "f" * 64}))
    error = refused(finetune.main, "--resume", "--init", other, "--out", out, code=2)
    assert (
        f"error: --init {other}: content ffffffff, and the run in {out} started from {pretrained}/checkpoints" in error
    )


def test_a_damaged_checkpoint_is_refused_by_its_own_path_and_passed_over_in_its_run(
    settings: str, pretrained: Path, tmp_path: Path, refused: Refused
) -> None:
    copy = tmp_path / "pretrained"
    shutil.copytree(pretrained, copy)
    state = copy / "checkpoints" / "000000005" / "state.pt"
    state.write_bytes(state.read_bytes()[:5000])
    line = ["--config", settings, "finetune.env_steps=60", "--out"]
    error = refused(finetune.main, *line, tmp_path / "1", "--init", state.parent, code=2)
    assert f"error: {state}: checksum differs from meta.json: truncated or damaged" in error
    assert finetune.main([*line, str(tmp_path / "2"), "--init", str(copy)]) == 0


def test_ctrl_c_leaves_a_checkpoint_and_exit_code_130(settings: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = ["--config", settings, "--out", str(out), "finetune.env_steps=1000000", "finetune.random_steps=300"]
    command = [sys.executable, "-m", "prelar_ray", "finetune", *line]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (out / "metrics.jsonl").exists() or not read_metrics(out / "metrics.jsonl"):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error.endswith(f"next: prelar-ray finetune --resume --out {out}\ninterrupted\n")
    assert "Traceback" not in error
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    checkpoint = load_checkpoint(out)
    assert checkpoint.update >= 1
    assert checkpoint.counters["replay"][0]["env_steps"] >= 300
