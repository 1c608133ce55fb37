"""The pre-training loop: clips from a video store to a world model with latent actions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import NamedTuple

from prelar_ray.checkpoint.compatibility import check_same_experiment, resumable_checkpoint
from prelar_ray.checkpoint.store import Checkpoint, CheckpointStore, is_whole
from prelar_ray.config import RunConfig
from prelar_ray.errors import RoleDied
from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.backend import Backend
from prelar_ray.training.drive import Loop, drive
from prelar_ray.training.every import Every
from prelar_ray.training.learners import PretrainLearners
from prelar_ray.training.local_backend import LocalBackend
from prelar_ray.training.metric_log import Line, MetricLog, process_memory
from prelar_ray.training.restarts import RestartPolicy
from prelar_ray.training.videos import ClipReader, Videos
from prelar_ray.types import Frames
from prelar_ray.video.clips import validation_clips
from prelar_ray.video.mixture import VideoMixture
from prelar_ray.video.seen import VideoIdentity

__all__ = ["Pretraining", "iterate_pretraining", "pretrain"]


def pretrain(
    config: RunConfig, run: RunFolder, resume: bool, start_backend: Callable[[], Backend] = LocalBackend
) -> Path:
    """Run pre-training to its end and return the last checkpoint; see :func:`iterate_pretraining`."""
    for _ in iterate_pretraining(config, run, resume, start_backend):
        pass
    return CheckpointStore(run.checkpoints, config.checkpoint.keep_last).paths()[-1]


def iterate_pretraining(
    config: RunConfig, run: RunFolder, resume: bool, start_backend: Callable[[], Backend] = LocalBackend
) -> Generator[Line]:
    """Run pre-training to its end; yields every line of metrics when it is written.

    Args:
        config: of the run.
        run: its folder.
        resume: continue from the last checkpoint of ``run``.
        start_backend: returns where the learner's ranks run; it is closed in any case.

    On Ctrl-C, or a KeyboardInterrupt thrown in, a checkpoint is written before the interrupt takes effect.

    Raises:
        DataError: the video store cannot be used.
        NonFiniteError: a loss became NaN or infinite.
        CheckpointError: nothing to resume from, other networks, seed or videos than the run's, or a checkpoint could
            not be written.
        UsageError: the run to resume is longer than ``config`` asks for.
        ConfigError: ``checkpoint.mirror`` cannot be used.
    """
    checkpoints = CheckpointStore(run.checkpoints, config.checkpoint.keep_last)
    policy = RestartPolicy(checkpoints, config)

    def load() -> _Origin:
        checkpoint = resumable_checkpoint(checkpoints, config) if resume else None
        videos = Videos(config, "pretrain", checkpoint.counters if checkpoint else None)
        if checkpoint:
            check_same_experiment(run, checkpoint, config, _other_videos(checkpoint, config, videos.store))
        settings = config.pretrain
        shape = settings.batch_size, settings.segment_length
        validation = validation_clips(videos.store, *shape, videos.held_out, settings.stride)
        return _Origin(videos, validation, checkpoint)

    def restart(death: RoleDied, backend: Backend, origin: _Origin) -> _Origin:
        return origin._replace(checkpoint=policy.restart(death, backend, origin.checkpoint))

    return drive(
        config,
        run,
        phase="pretrain",
        total=config.pretrain.updates,
        unit="updates",
        is_whole=is_whole,
        load=load,
        done=lambda origin: origin.checkpoint.update if origin.checkpoint else 0,
        start=start_backend,
        open_loop=lambda backend, origin: Pretraining(config, run, backend, origin),
        restart=restart,
    )


class _Origin(NamedTuple):
    """What a loop starts from."""

    videos: Videos
    validation: Frames
    """Clips to measure on, ``(B, T, Hpx, Wpx, C)``."""
    checkpoint: Checkpoint | None


def _other_videos(checkpoint: Checkpoint, config: RunConfig, store: VideoMixture) -> tuple[str, str] | None:
    """Return in words the videos of a checkpoint and those of now, where they are others; None if they are the same."""
    now = VideoIdentity.of(store)
    if now.continues(checkpoint.counters, config.video.skip_bad):
        return None
    before = checkpoint.counters.get("videos") or [list(checkpoint.counters["shards"])]
    return f"{checkpoint.config.video.name}, {VideoIdentity(before)}", f"{config.video.name}, {now}"


class Pretraining(Loop):
    """One update after another, with the next clips read meanwhile: Algorithm 1, lines 4-8."""

    def __init__(self, config: RunConfig, run: RunFolder, backend: Backend, origin: _Origin) -> None:
        self.config, self.run = config, run
        self.videos, self.validation, checkpoint = origin
        self.learners = PretrainLearners(backend, config, run.checkpoints.absolute())
        if checkpoint is not None:
            self.learners.restore(checkpoint.path.absolute(), checkpoint.update)
        run.start()
        updates = self.learners.updates
        if checkpoint is not None:
            run.warn_of_missing_lines(checkpoint.counters.get("lines", {}), updates)
        self.metrics = MetricLog(run, backend.report, updates if checkpoint else None)
        self.logging = Every(config.telemetry.every_updates, updates)
        self.validating = Every(config.pretrain.validation_every_updates, updates)
        self.saving = Every(config.checkpoint.every_updates, updates)
        self.loss = float("nan")
        self.clips = ClipReader(self.videos, config.learner.ranks, checkpoint.counters if checkpoint else None)
        self._clear()

    def _clear(self) -> None:
        self._began, self._count = time.monotonic(), 0

    @property
    def finished(self) -> bool:
        """Whether all updates are made."""
        return self.learners.updates >= self.config.pretrain.updates

    @property
    def reached(self) -> int:
        """Updates made."""
        return self.learners.updates

    @property
    def shown(self) -> Mapping[str, float]:
        """The last loss."""
        return {"loss": self.loss}

    def advance(self) -> None:
        """Make one update, then do what is due."""
        clips = self.clips.read()  # line 6
        with interrupts_deferred():
            self.learners.update([[share] for share in clips])  # line 7
            self.clips.learnt()
        self._count += 1
        updates = self.learners.updates
        validate = self.validating.take(updates) or self.finished
        if self.logging.take(updates) or validate:
            self._log(validate)
        if self.saving.due(updates):
            self._begin_save()

    def _log(self, validate: bool) -> None:
        values = self.learners.metrics()
        self.loss = values["loss/total"]
        seconds = time.monotonic() - self._began
        frames = self._count * self.config.pretrain.batch_size * self.config.pretrain.segment_length
        values |= {
            "rate/updates_per_second": self._count / seconds,
            "rate/frames_per_second": frames / seconds,
            "memory/process": process_memory(),
        }
        if validate:
            values |= self.learners.validate(self.validation)
        self.metrics.write(self.learners.updates, 0, values)
        self._clear()

    def _begin_save(self) -> None:
        self.learners.save(self.clips.counters | {"lines": self.run.sync_lines()})
        self.saving.done(self.learners.updates)

    def save(self) -> None:
        """Write a checkpoint of all updates so far.

        Raises:
            NonFiniteError: a loss was NaN or infinite; nothing is written.
            CheckpointError: it could not be written; those before are intact.
        """
        self._begin_save()
        self.learners.saved()

    def finish(self) -> None:
        """Nothing is left to do: the last update was measured."""

    def conclude(self) -> None:
        """Write what the report shows: frames and final numbers."""
        self.run.save_frames("prediction", **self.learners.predict(self.validation[0])._asdict())
        store = self.videos.store
        numbers = {
            "updates": self.learners.updates,
            "loss": self.loss,
            "video_frames": store.total_frames,
            "video_episodes": len(store),
            "held_out_episodes": len(self.videos.held_out),
        }
        finite = {key: x for key, x in numbers.items() if math.isfinite(x)}
        self.run.update(summary=self.run.info["summary"] | finite)

    def close(self) -> None:
        """End the thread that reads clips, and the log."""
        self.clips.close()
        super().close()
