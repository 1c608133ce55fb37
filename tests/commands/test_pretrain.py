from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prelar_ray import pretrain
from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.config import RunConfig, load_config
from prelar_ray.learning.learner import PretrainLearner
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.video.store import VideoWriter

Refused = Callable[..., str]


def test_a_run_leaves_its_files_and_names_the_next_command(
    settings: str, videos: Path, tmp_path: Path, minute_config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert pretrain.main(["--config", settings, "--videos", str(videos), "--out", str(out), "seed=4"]) == 0
    found = {path.name for path in out.iterdir()}
    assert found == {"run.json", "config.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "frames"}
    resolved = load_config(None, out / "config.yaml")
    assert resolved == load_config(None, None, [f"video.path={videos}", "seed=4"], base=minute_config)
    assert load_checkpoint(out).config == resolved
    said = capsys.readouterr().err
    assert "pretrain: 5/5 updates, done" in said
    assert f"pre-trained: {out}/checkpoints/000000005" in said
    assert f"prelar-ray finetune --init {out} --out runs/finetune" in said


def test_resume_goes_on_with_the_configuration_of_the_run(
    settings: str, videos: Path, tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "run")
    update = PretrainLearner.update

    def crashing(self: PretrainLearner, clips: object) -> None:
        if self.updates == 3:
            raise RuntimeError("power cut")
        update(self, clips)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(PretrainLearner, "update", crashing)
        with pytest.raises(RuntimeError, match="power cut"):
            pretrain.main(["--config", settings, "--videos", str(videos), "--out", out])
    assert load_checkpoint(Path(out)).update == 2
    assert pretrain.main(["--out", out, "--resume"]) == 0
    assert load_checkpoint(Path(out)).update == 5
    losses = [[row["loss/total"] for row in read_metrics(path / "metrics.jsonl")] for path in (Path(out), pretrained)]
    assert losses[0] == losses[1]  # as if nothing had happened


def test_a_folder_of_another_run_is_refused(settings: str, videos: Path, pretrained: Path, refused: Refused) -> None:
    before = {path: path.read_bytes() for path in pretrained.rglob("*") if path.is_file()}
    error = refused(pretrain.main, "--config", settings, "--videos", videos, "--out", pretrained, code=2)
    expected = f"error: {pretrained}: already holds a run; continue it with --resume or choose a new --out\n"
    assert error == expected
    assert {path: path.read_bytes() for path in pretrained.rglob("*") if path.is_file()} == before


def test_a_finetuning_run_cannot_be_resumed(finetuned: Path, videos: Path, refused: Refused) -> None:
    error = refused(pretrain.main, "--videos", videos, "--out", finetuned, "--resume", code=2)
    assert f"{finetuned}: holds a finetune run, which pretrain cannot --resume" in error


def test_what_is_missing_on_the_command_line_is_named(settings: str, tmp_path: Path, refused: Refused) -> None:
    assert "--out DIR is required" in refused(pretrain.main, "--config", settings, code=2)
    error = refused(pretrain.main, "--config", settings, "--out", tmp_path / "run", code=2)
    assert error.startswith("error: video.path: no video store given; use --videos DIR")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("exists", [True, False])
def test_a_missing_or_empty_video_folder_is_named(
    settings: str, tmp_path: Path, refused: Refused, exists: bool
) -> None:
    folder = tmp_path / "videos"
    if exists:
        folder.mkdir()
    error = refused(pretrain.main, "--config", settings, "--videos", folder, "--out", tmp_path / "run", code=1)
    assert error.startswith(f"error: {folder}: ")
    assert len(error.splitlines()) == 1


def test_videos_shorter_than_a_segment_are_refused_with_what_to_change(
    settings: str, videos: Path, tmp_path: Path, refused: Refused
) -> None:
    line = ["--config", settings, "--videos", videos, "--out", tmp_path / "run", "pretrain.segment_length=9"]
    error = refused(pretrain.main, *line, code=1)
    assert "the longest of 3 videos has 8 frames, a clip needs 9; set pretrain.segment_length to 8 or less" in error


def test_a_damaged_shard_is_named_and_the_others_can_be_used(
    settings: str, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "videos"
    with VideoWriter(store, {}, shard_frames=8) as writer:
        for seed in range(3):
            frames = np.random.default_rng(seed).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
            writer.append(frames, "prelar/point-reach")
    shard = store / "shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    line = ["--config", settings, "--videos", store]
    error = refused(pretrain.main, *line, "--out", tmp_path / "refused", code=1)
    assert error.startswith(f"error: {shard}")
    assert "--skip-bad" in error
    assert pretrain.main([*map(str, line), "--skip-bad", "--out", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "run.json").read_text())["summary"]
    assert (summary["video_episodes"], summary["video_frames"]) == (2, 16)


def test_a_checkpoint_of_other_sizes_is_refused(pretrained: Path, tmp_path: Path, refused: Refused) -> None:
    copy = tmp_path / "run"
    shutil.copytree(pretrained, copy)
    error = refused(pretrain.main, "--out", copy, "--resume", "world_model.rssm.deter=12", code=1)
    assert "has shape (24, 16) in the checkpoint and (36, 20) in this configuration" in error
