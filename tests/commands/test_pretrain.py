from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.commands import pretrain
from prelar_ray.config import RunConfig, load_config
from prelar_ray.learning.learner import PretrainLearner
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.video.store import VideoStore, VideoWriter

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
    assert f"prelar-ray diagnose {out}\n" in said
    assert f"prelar-ray finetune --init {out} --config {out}/config.yaml --out runs/finetune env.task=" in said


def test_the_next_commands_are_quoted_and_only_those_that_the_method_knows(
    settings: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my run"
    line = ["--config", settings, "--videos", str(videos), "--out", str(out), "pretrain.updates=2"]
    assert pretrain.main([*line, "world_model.latent_action_source=zeros"]) == 0
    said = capsys.readouterr().err
    command = f"next: prelar-ray finetune --init '{out}' --config '{out}/config.yaml' --out runs/finetune"
    assert f"{command} env.task=prelar/point-reach\n" in said
    assert f"prelar-ray report '{out}'" in said
    assert "diagnose" not in said


@pytest.mark.parametrize(
    ("source", "task"),
    [("gym/wetlab:Pipette-v0", "gym/wetlab:Pipette-v0"), ("kitchen/one.mp4", "TASK"), ("prelar/arena-push", None)],
)
def test_the_task_to_fine_tune_is_one_that_the_videos_are_of(
    settings: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, task: str | None
) -> None:
    with VideoWriter(tmp_path / "videos", {}, shard_frames=8) as writer:
        for frames in map(VideoStore(videos).frames, range(3)):
            writer.append(frames, source)
    line = ["--config", settings, "--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "run")]
    assert pretrain.main([*line, "pretrain.updates=1"]) == 0
    assert f"--out runs/finetune env.task={task or 'prelar/point-reach'}\n" in capsys.readouterr().err


def test_a_run_says_what_it_is_before_it_begins(
    settings: str, videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    with caplog.at_level(logging.INFO):
        assert pretrain.main(["--config", settings, "--videos", str(videos), "--out", str(out)]) == 0
    assert caplog.messages[0] == f"pretrain: {videos}, method prelar, device cpu, in {out}"


def test_a_run_finds_its_videos_from_another_folder(
    settings: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(videos.parent)
    out = tmp_path / "run"
    line = ["--config", settings, "--videos", videos.name, "--out", str(out)]
    assert pretrain.main([*line, "pretrain.updates=2"]) == 0
    assert load_config(None, out / "config.yaml").video.path == load_checkpoint(out).config.video.path == str(videos)
    monkeypatch.chdir(tmp_path)
    assert pretrain.main(["--resume", "--out", "run", "pretrain.updates=3"]) == 0
    assert load_checkpoint(out).update == 3


def test_videos_at_an_address_are_trained_on_and_the_run_names_the_address(
    settings: str, videos: Path, tmp_path: Path
) -> None:
    out, address = tmp_path / "run", f"file://{videos}"
    line = ["--config", settings, "--videos", address, "--out", str(out), f"video.cache={tmp_path}/cache"]
    assert pretrain.main([*line, "pretrain.updates=2"]) == 0
    assert load_config(None, out / "config.yaml").video.path == load_checkpoint(out).config.video.path == address
    assert list((tmp_path / "cache").rglob("*.arrow"))


def test_checksums_are_compared_again_when_asked(settings: str, videos: Path, tmp_path: Path, refused: Refused) -> None:
    copy = shutil.copytree(videos, tmp_path / "videos")
    VideoStore(copy)  # compares them for the first time
    shard = copy / "shard-00000.arrow"
    before = shard.stat()
    content = bytearray(shard.read_bytes())
    content[-2000] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    line = ["--config", settings, "--videos", copy, "--out", tmp_path / "run"]
    assert "the checksum differs" in refused(pretrain.main, *line, "--verify", code=2)
    assert not (tmp_path / "run").exists()


def test_resume_continues_with_the_configuration_of_the_run(
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
    assert f"error: {pretrained}: already holds a run; --resume --out {pretrained} alone continues it" in error
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
    error = refused(pretrain.main, "--config", settings, "--videos", folder, "--out", tmp_path / "run", code=2)
    assert error.startswith(f"error: {folder}: ")
    assert len(error.splitlines()) == 1


def test_videos_shorter_than_a_segment_are_refused_with_what_to_change(
    settings: str, videos: Path, tmp_path: Path, refused: Refused
) -> None:
    line = ["--config", settings, "--videos", videos, "--out", tmp_path / "run", "pretrain.segment_length=9"]
    error = refused(pretrain.main, *line, code=2)
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
    error = refused(pretrain.main, *line, "--out", tmp_path / "refused", code=2)
    assert error.startswith(f"error: {shard}")
    assert "--skip-bad" in error
    assert pretrain.main([*map(str, line), "--skip-bad", "--out", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "run.json").read_text())["summary"]
    assert (summary["video_episodes"], summary["video_frames"]) == (2, 16)


def test_a_resume_with_another_preset_names_what_differs_and_leaves_the_run_as_it_was(
    pretrained: Path, videos: Path, tmp_path: Path, refused: Refused
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(pretrained, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    error = refused(pretrain.main, "--out", copy, "--resume", "--preset", "small", "--videos", videos, code=2)
    expected = "made with world_model.encoder.depth=2 (here 24), world_model.encoder.stacks=1 (here 3) and "
    assert error.startswith(f"error: {copy}/checkpoints/000000005: {expected}")
    own = (
        "leave --preset, --config and changed keys out, as --resume reads the run's own settings, or start a new --out"
    )
    assert own in error
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert pretrain.main(["--out", str(copy), "--resume"]) == 0


def test_a_resume_as_another_method_is_refused_by_name(pretrained: Path, refused: Refused) -> None:
    error = refused(pretrain.main, "--out", pretrained, "--resume", "--method", "apv", code=2)
    assert error == (
        f"error: method=apv: the run in {pretrained} is of method prelar; leave --method out, or start a new --out\n"
    )


def test_ctrl_c_says_what_is_kept_and_how_to_resume(
    settings: str, videos: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my run"
    line = ["--config", settings, "--videos", videos, "--out", out]
    update = PretrainLearner.update

    def interrupted(self: PretrainLearner, clips: object) -> None:
        if self.updates == 1:
            signal.raise_signal(signal.SIGINT)
        update(self, clips)  # type: ignore[arg-type]

    monkeypatch.setattr(PretrainLearner, "update", interrupted)
    error = refused(pretrain.main, *line, code=130)
    said = f"kept: {out}/checkpoints/000000002\nnext: prelar-ray pretrain --resume --out '{out}'\ninterrupted\n"
    assert error.endswith(said)


def test_a_dry_run_refuses_videos_of_another_size(settings: str, videos: Path, refused: Refused) -> None:
    line = ["--config", settings, "--videos", videos, "--dry-run", "env.image_size=128"]
    error = refused(pretrain.main, *line, code=2)
    assert f"{videos}: holds frames of 64 x 64 pixels, and env.image_size=128; set env.image_size=64, or" in error
    assert len(error.splitlines()) == 1
