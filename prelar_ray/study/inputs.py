"""What a study starts from: optional packages, pre-trainings and videos that are there, and videos that it records."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path

from prelar_ray.checkpoint.compatibility import pretrained_checkpoint
from prelar_ray.errors import CheckpointError, ConfigError
from prelar_ray.storage.addresses import is_address
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.plan import PlannedRun, recording, video_stores
from prelar_ray.study.sweep import Sweep
from prelar_ray.telemetry.progress import Progress
from prelar_ray.video.recorder import discard, record
from prelar_ray.video.store import MANIFEST, is_complete

__all__ = ["check_inputs", "record_videos"]

log = logging.getLogger(__name__)


def check_inputs(sweep: Sweep, runs: Sequence[PlannedRun]) -> None:
    """Make sure that what the study starts from, and the optional packages that it names, are there.

    Raises:
        ConfigError: a video store or a package that it names is not.
        CheckpointError: a pre-training that it names is not, or does not fit.
    """
    searching = ("optuna",) if sweep.search.kind == "optuna" else ()
    for key, package in [("loggers", name) for name in sweep.loggers] + [("search.kind", name) for name in searching]:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{key}={package}: not installed; pip install {package}, or leave it out")
    for name, given in sweep.pretrain.videos.items() if sweep.pretrain else ():
        if isinstance(given, str) and not is_address(given) and not (Path(given) / MANIFEST).exists():
            raise ConfigError(
                f"pretrain.videos.{name}: {given} holds no video store; prelar-ray record and prepare write one"
            )
    for run in {(run.init_path, run.method): run for run in runs if run.init_path}.values():
        assert run.init_path is not None
        try:
            pretrained_checkpoint(run.init_path, run.config)
        except CheckpointError as error:
            raise CheckpointError(f"finetune.init.{run.method}: {error}") from error


def record_videos(sweep: Sweep, folder: StudyFolder) -> None:
    """Record the data sets that the sweep file describes and that are not there yet; one that was cut off, again.

    Raises:
        ConfigError: settings of a recording are wrong.
        DataError: what is there of a recording cannot be read.
    """
    for name, store in video_stores(sweep, folder.path).items():
        given = sweep.pretrain.videos[name] if sweep.pretrain else ""
        if isinstance(given, str):
            continue
        path = Path(store)
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
