"""A whole run on frames of 128x128; what is of another size is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prelar_ray.acting.evaluator import Evaluator
from prelar_ray.checkpoint.compatibility import check_evaluable, pretrained_checkpoint, resumable_checkpoint
from prelar_ray.checkpoint.store import CheckpointStore, load_checkpoint
from prelar_ray.checkpoint.transfer import load_pretrained, policy_weights
from prelar_ray.config import RunConfig, load_config, to_yaml
from prelar_ray.errors import CheckpointError, DataError
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.reporting.run_report import write_report
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.progress import Progress
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.training.diagnostics import diagnose
from prelar_ray.training.finetuning import finetune
from prelar_ray.training.local_backend import LocalBackend
from prelar_ray.training.pretraining import pretrain
from prelar_ray.video.recorder import record
from prelar_ray.video.store import VideoStore

LARGE = "env.image_size=128"


def changed(config: RunConfig, *overrides: str) -> RunConfig:
    return load_config(None, None, overrides, base=config)


@pytest.fixture(scope="module")
def large(minute_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The configuration of a run on a store of three videos of 128x128."""
    path = tmp_path_factory.mktemp("large") / "videos"
    config = changed(minute_config, LARGE)
    record(config, path, lambda frames: None)
    return changed(config, f"video.path={path}")


@pytest.fixture(scope="module")
def large_pretrained(large: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder.create(tmp_path_factory.mktemp("pretrained") / "run", to_yaml(large), "pretrain")
    pretrain(large, run, resume=False)
    return run


def test_videos_are_recorded_at_the_size(large: RunConfig) -> None:
    store = VideoStore(Path(large.video.name))
    assert (store.image_size, store.frames(0).shape[1:]) == (128, (128, 128, 3))


def test_a_run_learns_from_large_frames(
    large: RunConfig, large_pretrained: RunFolder, tmp_path: Path, short_episodes: int
) -> None:
    config = changed(large, "finetune.rehearsal.share=0.5", "finetune.batch_size=4")
    run = RunFolder.create(tmp_path / "run", to_yaml(config), "finetune")
    finetune(config, run, LocalBackend, pretrained_checkpoint(large_pretrained.path, config), False)
    losses = [row["loss/total"] for row in read_metrics(run.metrics_path) if "loss/total" in row]
    assert losses
    assert np.isfinite(losses).all()
    replay = EpisodeStore(run.replay)
    assert replay.load(replay.keys()[0]).image.shape[1:] == (128, 128, 3)
    checkpoint = load_checkpoint(run.path)
    check_evaluable(checkpoint, config)
    with pytest.raises(CheckpointError, match=r"made with env\.image_size=128 \(here 64\)"):
        check_evaluable(checkpoint, changed(config, "env.image_size=64"))
    result = Evaluator(config).evaluate(policy_weights(checkpoint), 1, keep_frames=1)
    assert result.frames[0].shape[1:] == (128, 128, 3)
    write_report([run.path], tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_a_pretraining_shows_and_measures_large_frames(
    large: RunConfig, large_pretrained: RunFolder, tmp_path: Path
) -> None:
    write_report([large_pretrained.path], tmp_path / "report.html")
    with Progress() as progress:
        found = diagnose(load_pretrained(large_pretrained.path), large.video, [], 0, progress)
    assert found.metrics


@pytest.mark.parametrize(("theirs", "ours"), [(64, 128), (128, 64)])
def test_a_pretraining_of_another_size_is_no_start(
    large: RunConfig, large_pretrained: RunFolder, minute_config: RunConfig, pretrained: Path, theirs: int, ours: int
) -> None:
    init, config = (pretrained, large) if theirs == 64 else (large_pretrained.path, minute_config)
    with pytest.raises(CheckpointError) as caught:
        pretrained_checkpoint(init, config)
    assert str(caught.value) == (
        f"--init {init}: made with env.image_size={theirs} (here {ours}); use --config {init}/config.yaml "
        f"and leave env.image_size out, or pre-train with env.image_size={ours}"
    )


def test_a_run_of_another_size_is_not_resumed(large: RunConfig, large_pretrained: RunFolder) -> None:
    store = CheckpointStore(large_pretrained.checkpoints, 3)
    resumable_checkpoint(store, large)
    with pytest.raises(CheckpointError, match=r"made with env\.image_size=128 \(here 64\)"):
        resumable_checkpoint(store, changed(large, "env.image_size=64"))


def test_videos_of_another_size_are_refused(minute_config: RunConfig, videos: Path, tmp_path: Path) -> None:
    config = changed(minute_config, LARGE, f"video.path={videos}")
    run = RunFolder.create(tmp_path / "run", to_yaml(config), "pretrain")
    with pytest.raises(DataError, match=rf"^{videos}: holds frames of 64 x 64 pixels, and env\.image_size=128; set"):
        pretrain(config, run, resume=False)
