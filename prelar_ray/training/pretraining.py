"""The pre-training loop: clips from a video store to a world model with latent actions."""

from __future__ import annotations

import logging
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from prelar_ray.checkpoint.compatibility import naming, resumable_checkpoint
from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.config.schema import RunConfig
from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.learning.learner import PretrainLearner
from prelar_ray.learning.prediction import context_frames
from prelar_ray.run_folder import RunFolder
from prelar_ray.seeding import generator
from prelar_ray.telemetry.progress import Progress
from prelar_ray.telemetry.writers import MetricWriter
from prelar_ray.types import Frames
from prelar_ray.video.clips import ClipSampler, held_out_episodes, validation_clips
from prelar_ray.video.seen import SeenVideos
from prelar_ray.video.store import VideoStore
from prelar_ray.wording import counted

__all__ = ["pretrain"]

PHASE = "pretrain"

log = logging.getLogger(__name__)


def pretrain(config: RunConfig, run: RunFolder, resume: bool) -> Path:
    """Run pre-training to its end and return the last checkpoint.

    On Ctrl-C a checkpoint is written before the interrupt goes on.

    Raises:
        DataError: the video store cannot be used.
        NonFiniteError: a loss became NaN or infinite.
        CheckpointError: nothing to resume from, other networks than the run's, or a checkpoint could not be written.
        UsageError: the run to resume is longer than ``config`` asks for.
    """
    with run.track(), run.timed(PHASE):
        store = VideoStore.open(config.video)
        settings = config.pretrain
        checkpoints = CheckpointStore(run.checkpoints, config.checkpoint.keep_last)
        checkpoint = resumable_checkpoint(checkpoints, config) if resume else None
        seen = SeenVideos({}) if checkpoint is None else SeenVideos.load(checkpoint.counters, store)
        held_out = _held_out(config, store, seen)
        counters = {"held_out": held_out, "shards": seen.extended(store, held_out).shards}
        shape = settings.batch_size, settings.segment_length
        sampler = ClipSampler(store, *shape, generator(config.seed, "clips"), without=held_out)
        validation = validation_clips(store, *shape, held_out)
        learner = PretrainLearner(config)
        if checkpoint is not None:
            with naming(checkpoint.path):
                learner.load_state_dict(checkpoint.state)
            sampler.load_state_dict(checkpoint.counters["sampler"])
        run.go_on()
        loop = _Pretraining(config, learner, sampler, checkpoints, validation, counters)
        writer = MetricWriter(run.metrics_path, run.tensorboard, learner.updates if resume else None)
        with writer, Progress() as progress:
            phase = progress.phase(PHASE, settings.updates, "updates", learner.updates)
            with phase, ThreadPoolExecutor(1, "clips") as reader:
                try:
                    while learner.updates < settings.updates:
                        loss = loop.advance(reader, writer)
                        phase.advance(1, loss=loss)
                except KeyboardInterrupt:
                    log.warning("interrupted: writing a checkpoint; a second Ctrl-C leaves without it")
                    loop.save()
                    raise
        path = loop.save()
        clip = validation[0]
        run.save_frames("prediction", **learner.predict(clip, context=context_frames(len(clip)))._asdict())
        summary = {
            "updates": learner.updates,
            "loss": loop.loss,
            "video_frames": store.total_frames,
            "video_episodes": len(store),
            "held_out_episodes": len(held_out),
        }
        run.update(summary=run.info["summary"] | {key: x for key, x in summary.items() if math.isfinite(x)})
    return path


def _held_out(config: RunConfig, store: VideoStore, seen: SeenVideos) -> list[int]:
    """Return the episodes that training shall not see.

    What was held out before stays so, even if the share has changed or the store has grown since; of other videos than
    a run was trained on so far, episodes are held out anew.
    """
    if seen.know(store):
        return seen.held_out(store)
    held_out = held_out_episodes(store, config.pretrain.segment_length, config.pretrain.validation_share)
    if seen.shards:
        count = counted(len(held_out), "episode")
        log.warning("%s: other videos than this run was trained on before; %s held out anew", config.video.path, count)
    return held_out


class _Pretraining:
    """One update after another, with the next clips read meanwhile."""

    def __init__(
        self,
        config: RunConfig,
        learner: PretrainLearner,
        sampler: ClipSampler,
        checkpoints: CheckpointStore,
        validation: Frames,
        counters: dict[str, Any],
    ) -> None:
        self.config, self.learner, self.sampler = config, learner, sampler
        self.checkpoints = checkpoints
        self.validation, self.counters = validation, counters
        self.loss = float("nan")
        self._next: Future[tuple[Frames, dict[str, Any]]] | None = None
        self._position = sampler.state_dict()  # after the last clips that were learnt from
        self._began, self._waited, self._count = time.monotonic(), 0.0, 0

    def advance(self, reader: ThreadPoolExecutor, writer: MetricWriter) -> float:
        """One update; writes metrics and checkpoints when they are due. Returns the last known loss."""
        if self._next is None:
            self._next = reader.submit(self._read)
        asked = time.monotonic()
        clips, position = self._next.result()
        self._waited += time.monotonic() - asked
        self._next = reader.submit(self._read)
        with interrupts_deferred():
            self.learner.update(clips)
            self._position = position
        self._count += 1
        updates, settings = self.learner.updates, self.config.pretrain
        last = updates == settings.updates
        validate = last or updates % settings.validation_every_updates == 0
        if validate or updates % self.config.telemetry.every_updates == 0:
            self._log(writer, validate)
        if updates % self.config.checkpoint.every_updates == 0:
            self.save()
        return self.loss

    def save(self) -> Path:
        """Write a checkpoint of the present update.

        Raises:
            NonFiniteError: a loss was NaN or infinite; nothing is written.
        """
        self.learner.check_finite()
        return self.checkpoints.save(
            PHASE,
            self.config,
            self.learner.updates,
            self.learner.state_dict(),
            self.counters | {"sampler": self._position},
        )

    def _read(self) -> tuple[Frames, dict[str, Any]]:
        return self.sampler.sample(), self.sampler.state_dict()

    def _log(self, writer: MetricWriter, validate: bool) -> None:
        values = self.learner.metrics()
        self.loss = values["loss/total"]
        seconds = time.monotonic() - self._began
        frames = self._count * self.config.pretrain.batch_size * self.config.pretrain.segment_length
        values |= {
            "rate/updates_per_second": self._count / seconds,
            "rate/frames_per_second": frames / seconds,
            "time/update": (seconds - self._waited) / self._count,
            "time/wait_for_data": self._waited / self._count,
            "memory/process": psutil.Process().memory_info().rss / 2**30,
        }
        if validate:
            values |= self.learner.validate(self.validation)
        writer.write(self.learner.updates, 0, values)
        self._began, self._waited, self._count = time.monotonic(), 0.0, 0
