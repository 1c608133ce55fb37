from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prelar_ray.checkpoint.store import CheckpointStore, load_checkpoint
from prelar_ray.config import RunConfig, load_config, to_yaml
from prelar_ray.errors import CheckpointError, DataError, NonFiniteError, PrelarError, UsageError
from prelar_ray.learning.learner import PretrainLearner
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.metrics import METRICS
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.training.pretraining import pretrain
from prelar_ray.video.actions import actions_path
from prelar_ray.video.clips import held_out_episodes
from prelar_ray.video.recorder import record
from prelar_ray.video.store import VideoStore

Same = Callable[[Path, Path], None]
Run = Callable[..., RunFolder]


@pytest.fixture
def run(minute_config: RunConfig, videos: Path, tmp_path: Path) -> Run:
    """Pre-train for 5 updates with a checkpoint every 2, and return the run folder."""

    def run(name: str = "run", *overrides: str, resume: bool = False, accept: bool = False) -> RunFolder:
        config = load_config(None, None, [f"video.path={videos}", *overrides], base=minute_config)
        folder = RunFolder.create(tmp_path / name, to_yaml(config), "pretrain", resume, accept_changes=accept)
        pretrain(config, folder, resume)
        return folder

    return run


@pytest.fixture
def during_update(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, Callable[[], None]], None]]:
    """Do something in the middle of one update: after the backward pass, before the parameters change."""
    from prelar_ray.learning.optimizers import Optimizer

    step = Optimizer.step

    def at(update: int, act: Callable[[], None]) -> None:
        def stepping(self: Optimizer, *given: Any) -> Any:
            if self.updates + 1 == update:
                act()
            return step(self, *given)

        monkeypatch.setattr(Optimizer, "step", stepping)

    yield at
    monkeypatch.setattr(Optimizer, "step", step)


def crash() -> None:
    raise RuntimeError("power cut")


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def checkpoints(folder: RunFolder) -> list[int]:
    return [int(path.name) for path in CheckpointStore(folder.checkpoints, 9).paths()]


def folder_at(path: Path) -> RunFolder:
    return RunFolder.open(path)


def test_a_run_leaves_everything_that_was_promised(run: Run, minute_config: RunConfig) -> None:
    folder = run()
    assert checkpoints(folder) == [2, 4, 5]
    last = load_checkpoint(folder.path)
    assert (last.phase, last.update) == ("pretrain", 5)
    rows = read_metrics(folder.metrics_path)
    assert [row["update"] for row in rows] == [1, 2, 3, 4, 5]
    for row in rows:
        assert {"loss/total", "loss/consistency", "grad_norm/world_model", "rate/frames_per_second"} <= row.keys()
        assert row.keys() - {"time", "update", "env_steps"} <= METRICS.keys()
    assert any(folder.tensorboard.iterdir())
    with np.load(folder.frames / "prediction.npz") as frames:
        assert frames["true"].shape == frames["reconstructed"].shape == frames["open_loop"].shape == (5, 64, 64, 3)
        assert frames["true"].dtype == np.uint8
        assert frames["context"] == 1
    info = json.loads((folder.path / "run.json").read_text())
    assert (info["phase"], info["status"]) == ("pretrain", "finished")
    summary = {"updates": 5, "loss": rows[-1]["loss/total"], "video_frames": 24, "video_episodes": 3}
    assert info["summary"] == summary | {"held_out_episodes": 1}
    assert info["timings"]["pretrain"] > 0


def test_the_metrics_since_the_last_line_are_written_at_the_end(run: Run) -> None:
    folder = run("run", "telemetry.every_updates=3")
    assert [row["update"] for row in read_metrics(folder.metrics_path)] == [3, 5]
    folder = run("short", "telemetry.every_updates=50")
    assert [row["update"] for row in read_metrics(folder.metrics_path)] == [5]
    assert json.loads((folder.path / "run.json").read_text())["summary"]["loss"] > 0


DIAGNOSTICS = {
    *("validation/total", "validation/image", "validation/dynamics_kl"),
    *("latent/spearman", "latent/active_units", "latent/participation_ratio", "latent/kl", "latent/kl_largest"),
    *(f"open_loop/{kind}" for kind in ("own", "shuffled", "zero", "repeated", "shuffled_over_own")),
}


def test_diagnostics_are_written_now_and_then_and_at_the_end(run: Run) -> None:
    folder = run("run", "pretrain.validation_every_updates=2", "telemetry.every_updates=3")
    rows = {row["update"]: row for row in read_metrics(folder.metrics_path)}
    assert list(rows) == [2, 3, 4, 5]
    for update, row in rows.items():
        assert (row.keys() & DIAGNOSTICS) == (set() if update == 3 else DIAGNOSTICS)
    assert rows[2]["validation/image"] != rows[4]["validation/image"]
    assert rows[2]["open_loop/repeated"] == rows[4]["open_loop/repeated"]  # the clips are the same


def test_measuring_changes_nothing_that_is_learnt(run: Run, pretrained: Path, assert_same_state: Same) -> None:
    assert_same_state(pretrained, run("often", "pretrain.validation_every_updates=1").path)


def test_held_out_episodes_stay_held_out_when_a_run_resumes(run: Run) -> None:
    held_out = load_checkpoint(run("run", "pretrain.updates=2").path).counters["held_out"]
    assert len(held_out) == 1
    folder = run("run", "pretrain.validation_share=0.7", resume=True)
    assert load_checkpoint(folder.path).counters["held_out"] == held_out


def test_of_other_videos_a_resumed_run_holds_out_others(
    run: Run, minute_config: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = load_checkpoint(run("run", "pretrain.updates=2").path).counters
    assert first["held_out"] == [0]
    other = tmp_path / "other"
    config = load_config(None, None, ["seed=1", "record.episodes_per_task=2"], base=minute_config)
    record(config, other, lambda frames: None)
    counters = load_checkpoint(run("run", f"video.path={other}", resume=True, accept=True).path).counters
    assert counters["held_out"] == held_out_episodes(VideoStore(other), 5, 0.05)
    assert f"{other}: other videos than this run was trained on before; 1 episode held out of these" in caplog.text
    assert counters["shards"].items() > first["shards"].items()  # the first videos were seen all the same


def test_checkpoints_that_do_not_say_which_videos_they_saw_can_be_resumed_from(run: Run) -> None:
    folder = run("run", "pretrain.updates=2")
    meta = folder.checkpoints / "000000002" / "meta.json"
    content = json.loads(meta.read_text())
    del content["counters"]["shards"]
    meta.write_text(json.dumps(content))
    assert load_checkpoint(run("run", resume=True).path).counters["held_out"] == [0]


def test_without_a_validation_share_training_sees_every_episode(run: Run) -> None:
    folder = run("all", "pretrain.validation_share=0")
    assert load_checkpoint(folder.path).counters["held_out"] == []
    assert folder.info["summary"]["held_out_episodes"] == 0


@pytest.mark.parametrize("state", ["absent", "damaged", "a folder"])
def test_pretraining_never_looks_at_the_true_actions(
    run: Run, pretrained: Path, videos: Path, tmp_path: Path, assert_same_state: Same, state: str
) -> None:
    copy = tmp_path / "videos"
    shutil.copytree(videos, copy)
    actions = actions_path(copy)
    assert actions_path(videos).is_file()
    assert not actions.exists()
    if state == "damaged":
        actions.write_bytes(b"damaged")
    elif state == "a folder":
        actions.mkdir()
    assert_same_state(pretrained, run("run", f"video.path={copy}").path)


def test_the_same_seed_makes_the_same_parameters_and_another_does_not(
    run: Run, pretrained: Path, assert_same_state: Same
) -> None:
    assert_same_state(pretrained, run("same").path)
    with pytest.raises(AssertionError):
        assert_same_state(pretrained, run("other", "seed=1").path)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    run: Run, pretrained: Path, tmp_path: Path, during_update: Any, assert_same_state: Same
) -> None:
    during_update(4, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run("cut")
    cut = folder_at(tmp_path / "cut")
    assert checkpoints(cut) == [2]
    assert [row["update"] for row in read_metrics(cut.metrics_path)] == [1, 2, 3]
    assert cut.info["status"] == "failed"
    assert "power cut" in cut.info["error"]
    during_update(0, crash)
    run("cut", resume=True)
    assert_same_state(pretrained, cut.path)
    rows = read_metrics(cut.metrics_path)
    assert [row["update"] for row in rows] == [1, 2, 3, 4, 5]
    for one, two in zip(rows, read_metrics(pretrained / "metrics.jsonl"), strict=True):
        assert one["loss/total"] == two["loss/total"]
    cut = folder_at(cut.path)
    assert cut.info["status"] == "finished"
    assert len(cut.info["resumed"]) == 1


def test_ctrl_c_within_an_update_leaves_a_checkpoint_from_which_the_run_resumes_bit_for_bit(
    run: Run, pretrained: Path, tmp_path: Path, during_update: Any, assert_same_state: Same
) -> None:
    during_update(3, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run("cut")
    cut = folder_at(tmp_path / "cut")
    assert cut.info["status"] == "interrupted"
    assert checkpoints(cut) == [2, 3]
    during_update(0, crash)
    run("cut", resume=True)
    assert_same_state(pretrained, cut.path)


def test_a_finished_run_can_be_made_longer(run: Run, pretrained: Path, assert_same_state: Same) -> None:
    short = run("short", "pretrain.updates=2")
    run("short", resume=True)
    assert_same_state(pretrained, short.path)


def test_resuming_a_finished_run_changes_nothing(run: Run, tmp_path: Path) -> None:
    first = run()
    before = first.info["summary"], checkpoints(first), read_metrics(first.metrics_path)
    again = run(resume=True)
    assert (again.info["summary"], checkpoints(again), read_metrics(again.metrics_path)) == before
    json.loads((again.path / "run.json").read_text(), parse_constant=pytest.fail)  # no NaN


def test_a_damaged_checkpoint_is_passed_over(
    run: Run, pretrained: Path, assert_same_state: Same, caplog: pytest.LogCaptureFixture
) -> None:
    cut = run("cut", "pretrain.updates=4")
    (cut.checkpoints / "000000004" / "state.pt").write_bytes(b"cut off")
    with caplog.at_level(logging.WARNING):
        run("cut", resume=True)
    assert "000000004/state.pt: checksum differs" in caplog.text
    assert_same_state(pretrained, cut.path)


def test_without_a_checkpoint_there_is_nothing_to_resume(run: Run, tmp_path: Path, during_update: Any) -> None:
    during_update(1, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run()
    with pytest.raises(CheckpointError, match="checkpoints: holds no usable checkpoint"):
        run(resume=True)
    assert folder_at(tmp_path / "run").info["status"] == "failed"


def everything(folder: RunFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        (
            "world_model.rssm.deter=12",
            CheckpointError,
            r"made with world_model\.rssm\.deter=8 \(here 12\); leave --pre",
        ),
        ("pretrain.updates=4", UsageError, r"^pretrain\.updates=4: .*/000000005 has done 5 already; ask for more, or"),
        ("video.path=/nowhere", DataError, "^/nowhere: "),
    ],
)
def test_a_resume_that_does_not_fit_is_refused_and_changes_nothing(
    run: Run, tmp_path: Path, override: str, error: type[PrelarError], message: str
) -> None:
    before = everything(run())
    with pytest.raises(error, match=message):
        run("run", override, resume=True)
    assert everything(folder_at(tmp_path / "run")) == before


def test_a_loss_that_is_not_finite_stops_the_run_by_name_and_keeps_the_last_checkpoint(
    run: Run, tmp_path: Path, during_update: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = PretrainLearner.update

    def poisoned(self: PretrainLearner, clips: Any) -> None:
        if self.updates == 3:
            with torch.no_grad():
                self.model.rssm.input.bias[0] = torch.nan
        update(self, clips)

    monkeypatch.setattr(PretrainLearner, "update", poisoned)
    with pytest.raises(NonFiniteError, match=r"^update 4: \w+/\w+ is not finite\. The last checkpoint is intact; low"):
        run("run", "telemetry.every_updates=50")  # found when the next checkpoint is due
    folder = folder_at(tmp_path / "run")
    assert folder.info["status"] == "failed"
    assert folder.info["error"].startswith("NonFiniteError: update 4: ")
    assert checkpoints(folder) == [2]
    for value in load_checkpoint(folder.path).state["model"].values():
        assert value.isfinite().all()


def test_a_learning_rate_that_is_far_too_large_stops_the_run(run: Run) -> None:
    with pytest.raises(NonFiniteError, match=r"^update \d: \w+/\w+ is not finite"):
        run("run", "pretrain.optimizer.learning_rate=1e30")


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def full(state: dict[str, Any], file: Any) -> None:
        if state["updates"] == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        CheckpointError, match=r"000000004: cannot write: No space left .* earlier checkpoints are intac"
    ):
        run()
    folder = folder_at(tmp_path / "run")
    assert folder.info["status"] == "failed"
    assert load_checkpoint(folder.path).update == 2


def test_a_store_that_cannot_be_used_is_a_failed_run(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        run("run", f"video.path={tmp_path / 'nowhere'}")
    assert folder_at(tmp_path / "run").info["status"] == "failed"
