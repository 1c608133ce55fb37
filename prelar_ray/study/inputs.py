"""What a study starts from: optional packages, pre-trainings and videos that are there, and videos that it records."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from prelar_ray.checkpoint.compatibility import pretrained_checkpoint
from prelar_ray.errors import CheckpointError, ConfigError
from prelar_ray.extras import require
from prelar_ray.storage.addresses import is_address
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.plan import PlannedRun, recording, video_stores
from prelar_ray.study.sweep import Sweep
from prelar_ray.telemetry.loggers import check_services
from prelar_ray.telemetry.progress import Progress
from prelar_ray.video.layout import check_image_size, read_manifest
from prelar_ray.video.recorder import discard, record
from prelar_ray.video.store import MANIFEST, is_complete

__all__ = ["check_inputs", "check_packages", "record_videos"]

log = logging.getLogger(__name__)


def check_packages(sweep: Sweep) -> None:
    """Make sure that the optional packages that a study names are there.

    Raises:
        UsageError: one is not.
    """
    if sweep.search.kind == "optuna":
        require("search.kind=optuna", "optuna")
    require(f"loggers=[{','.join(sweep.loggers)}]", *sweep.loggers)


def check_inputs(sweep: Sweep, runs: Sequence[PlannedRun], folder: StudyFolder | None = None) -> None:
    """Make sure that what the study starts from, and the optional packages that it names, are there.

    What only runs need that have finished, or that have a checkpoint of their own, may be gone.

    Args:
        folder: of the study, if it has begun.

    Raises:
        ConfigError: a video store that it names is not.
        UsageError: a package that it names is not.
        DataError: a video store holds frames of another size than the run that reads it.
        CheckpointError: a pre-training that it names is not, or does not fit.
    """
    check_packages(sweep)
    for run in runs:
        check_services(run.config.telemetry.loggers)
    for name in _needed_videos(sweep, runs, folder):
        given = sweep.pretrain.videos[name] if sweep.pretrain else ""
        if isinstance(given, str) and not is_address(given) and not (Path(given) / MANIFEST).exists():
            raise ConfigError(
                f"pretrain.videos.{name}: {given} holds no video store; prelar-ray record and prepare write one"
            )
    for run in runs:
        if run.phase == "pretrain" and not (folder and folder.is_over(run.name)):
            for path in run.config.video.paths:
                if (Path(path) / MANIFEST).exists():
                    check_image_size(path, read_manifest(Path(path)).image_size, run.config.env.image_size)
    starting = [run for run in runs if run.init_path and not (folder and folder.has_checkpoint(run.name))]
    for run in {(run.init_path, run.method): run for run in starting}.values():
        assert run.init_path is not None
        try:
            pretrained_checkpoint(run.init_path, run.config)
        except CheckpointError as error:
            raise CheckpointError(f"finetune.init.{run.method}: {error}") from error


def _needed_videos(sweep: Sweep, runs: Sequence[PlannedRun], folder: StudyFolder | None) -> list[str]:
    """Names of the data sets that some pre-training still has to read; of all, where nothing is planned yet."""
    if not sweep.pretrain:
        return []
    if folder is None or not runs:
        return list(sweep.pretrain.videos)
    reading = {run.config.video.path for run in runs if run.phase == "pretrain" and not folder.is_over(run.name)}
    return [name for name, store in video_stores(sweep, folder.path).items() if store in reading]


def record_videos(sweep: Sweep, folder: StudyFolder, runs: Sequence[PlannedRun] = ()) -> None:
    """Record the data sets that the sweep file describes and that are not there yet; one that was cut off, again.

    Args:
        runs: of the study; a data set that only finished ones read is left out.

    Raises:
        ConfigError: settings of a recording are wrong.
        DataError: what is there of a recording cannot be read.
    """
    stores = video_stores(sweep, folder.path)
    for name in _needed_videos(sweep, runs, folder):
        given = sweep.pretrain.videos[name] if sweep.pretrain else ""
        if isinstance(given, str):
            continue
        path = Path(stores[name])
        if path.exists():
            if (path / MANIFEST).exists() and is_complete(path):
                continue
            log.warning("%s: its recording was cut off; recording it again", path)
            discard(path)
        config = recording(sweep, given)
        asked = config.record
        frames = len(asked.tasks) * asked.episodes_per_task * asked.frames_per_episode
        with Progress() as progress, progress.phase(f"record {name}", frames, "frames") as phase:
            record(config, path, phase.advance)
