from __future__ import annotations

import functools
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from prelar_ray.acting.collector import Collector
from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.errors import (
    CheckpointError,
    PrelarError,
    UsageError,
)
from prelar_ray.replay.shard import ReplayShard
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.training.replays import ReplayGroup
from tests.training.runs import Run, assert_every_episode_once, checkpoints, crash, ctrl_c, logged, never

pytestmark = pytest.mark.usefixtures("short_episodes")


@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_a_crashed_run_resumes_from_its_last_checkpoint(
    run: Run, tmp_path: Path, during_update: Any, synchronous: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"collect.synchronous={synchronous}", "finetune.env_steps=130", "evaluation.every_env_steps=15"]
    during_update(9, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run("run", *settings)
    folder = RunFolder.open(tmp_path / "run")
    assert (folder.info["status"], folder.info["error"]) == ("failed", "RuntimeError: power cut")
    reached = load_checkpoint(folder.path)
    assert 2 <= reached.update <= 8
    rows = logged(folder)
    evaluations = folder.evaluations()
    assert evaluations

    restored = []
    restore = ReplayGroup.restore

    def restoring(self: ReplayGroup, *args: Any) -> None:
        restore(self, *args)
        restored.append((self.env_steps, self.limiter.updates, self.status.episodes))

    monkeypatch.setattr(ReplayGroup, "restore", restoring)
    during_update(0, never)
    run("run", *settings, resume=True)
    assert restored == [(reached.env_steps, reached.update, sum(reached.counters["numbers"].values()))]

    folder = RunFolder.open(folder.path)
    assert (folder.info["status"], folder.info["error"], len(folder.info["resumed"])) == ("finished", None, 1)
    assert folder.info["summary"]["updates"] == 2 + (folder.info["summary"]["env_steps"] - 60) // 5
    assert load_checkpoint(folder.path).update == folder.info["summary"]["updates"]
    again = logged(folder)
    updates = [row["update"] for row in again]
    assert updates == sorted(set(updates))
    kept = [row for row in rows if row["update"] <= reached.update]
    assert again[: len(kept)] == kept
    measured = [row for row in evaluations if row.update <= reached.update]
    assert folder.evaluations()[: len(measured)] == measured
    steps = [row.env_steps for row in folder.evaluations()]
    assert steps == sorted(set(steps))
    assert_every_episode_once(folder)


@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_ctrl_c_within_an_update_leaves_a_checkpoint_of_whole_updates(
    run: Run, tmp_path: Path, during_update: Any, synchronous: str
) -> None:
    during_update(3, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run("run", f"collect.synchronous={synchronous}", "checkpoint.every_updates=100")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.info["status"] == "interrupted"
    reached = load_checkpoint(folder.path)
    assert reached.update >= 3
    adam = [reached.state[name]["updates"] for name in ("dynamics_optimizer", "optimizer")]
    assert adam == [reached.update] * 2
    during_update(0, never)
    run("run", f"collect.synchronous={synchronous}", resume=True)
    assert load_checkpoint(folder.path).update == 6
    assert_every_episode_once(folder)


def test_ctrl_c_before_the_first_update_keeps_the_random_experience(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = Collector.collect
    calls = itertools.count(1)

    @functools.wraps(collect)
    def interrupted(self: Collector, *args: Any) -> Any:
        if next(calls) == 5:
            ctrl_c()
        return collect(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Collector, "collect", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("run")
    reached = load_checkpoint(tmp_path / "run")
    assert reached.update == 0
    assert reached.env_steps == 40
    folder = run("run", resume=True)
    assert RunFolder.open(folder.path).info["summary"]["updates"] == 6
    assert_every_episode_once(folder)


@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_ctrl_c_while_episodes_are_inserted_loses_neither_them_nor_their_steps(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: str
) -> None:
    insert = ReplayShard.insert
    calls = itertools.count(1)

    @functools.wraps(insert)
    def interrupted(self: ReplayShard, *parts: Any) -> Any:
        if next(calls) == 3:
            ctrl_c()
        return insert(self, *parts)

    settings = [f"collect.synchronous={synchronous}", "checkpoint.every_updates=100"]
    with monkeypatch.context() as patch:
        patch.setattr(ReplayShard, "insert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("run", *settings)
    reached = load_checkpoint(tmp_path / "run")
    assert reached.env_steps == 3 * 2 * 5  # requests of 5 steps in 2 environments
    folder = run("run", *settings, resume=True)
    assert folder.info["summary"]["env_steps"] == 80
    assert_every_episode_once(folder)


def test_resuming_a_finished_run_changes_nothing(run: Run) -> None:
    first = run("run")
    before = first.info["summary"], checkpoints(first), read_metrics(first.metrics_path), first.evaluations()
    again = run("run", resume=True)
    assert (again.info["summary"], checkpoints(again), read_metrics(again.metrics_path), again.evaluations()) == before


def test_a_run_lost_before_its_first_update_can_be_resumed(run: Run, during_update: Any) -> None:
    during_update(1, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run("run")
    assert run("run", resume=True).info["status"] == "finished"


def test_without_a_checkpoint_there_is_nothing_to_resume(run: Run, tmp_path: Path) -> None:
    shutil.rmtree(run("run").checkpoints)
    with pytest.raises(CheckpointError, match="checkpoints: holds no usable checkpoint"):
        run("run", resume=True)
    assert RunFolder.open(tmp_path / "run").info["status"] == "finished"


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        (
            "behaviour.actor.units=12",
            CheckpointError,
            r"/000000006: made with behaviour\.actor\.units=8 \(here 12\); lea",
        ),
        ("loss.aux_reward_weight=0", CheckpointError, r"made with loss\.aux_reward_weight=1 \(here 0\); leave"),
        (
            "finetune.env_steps=70",
            UsageError,
            r"^finetune\.env_steps=70: .*/000000006 has done 80 already; ask for more",
        ),
    ],
)
def test_a_resume_that_does_not_fit_is_refused_before_anything_starts_or_changes(
    run: Run, tmp_path: Path, override: str, error: type[PrelarError], message: str
) -> None:
    before = everything(run("run").path)
    with pytest.raises(error, match=message):
        run("run", override, resume=True, backend=lambda: pytest.fail("started"))
    assert everything(tmp_path / "run") == before


def test_a_resume_that_fails_while_roles_start_leaves_the_record_as_it_was(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("run")
    before = everything(tmp_path / "run")
    monkeypatch.setattr(ReplayGroup, "restore", lambda *_: crash())
    with pytest.raises(RuntimeError, match="power cut"):
        run("run", "behaviour.discount=0.9", resume=True)
    assert everything(tmp_path / "run") == before


def test_metrics_and_evaluations_that_were_emptied_are_said_at_a_resume(
    run: Run, tmp_path: Path, during_update: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ["finetune.env_steps=130", "evaluation.every_env_steps=15"]
    during_update(9, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run("run", *settings)
    folder = RunFolder.open(tmp_path / "run")
    noted = load_checkpoint(folder.path).counters["lines"]
    assert min(noted.values()) > 0
    folder.metrics_path.write_bytes(b"")
    folder.evaluations_path.write_bytes(b"\0" * folder.evaluations_path.stat().st_size)
    during_update(0, never)
    run("run", *settings, resume=True)
    for name, lines in noted.items():
        assert f"{name}: {lines} line" in caplog.text
