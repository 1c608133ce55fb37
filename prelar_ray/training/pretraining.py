"""The pre-training loop: clips from a video store to a world model with latent actions."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from prelar_ray.checkpoint.compatibility import resumable_checkpoint
from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.config.schema import RunConfig
from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.run_folder import RunFolder
from prelar_ray.seeding import generator
from prelar_ray.telemetry.progress import Progress
from prelar_ray.telemetry.writers import MetricWriter
from prelar_ray.training.backend import Backend, LocalBackend
from prelar_ray.training.learner_group import LearnerGroup
from prelar_ray.training.learner_role import PretrainLearnerRole
from prelar_ray.types import Frames
from prelar_ray.video.clips import ClipSampler, held_out_episodes, validation_clips
from prelar_ray.video.seen import SeenVideos
from prelar_ray.video.store import VideoStore
from prelar_ray.wording import counted

__all__ = ["pretrain"]

PHASE = "pretrain"

log = logging.getLogger(__name__)


def pretrain(
    config: RunConfig, run: RunFolder, resume: bool, start_backend: Callable[[], Backend] = LocalBackend
) -> Path:
    """Run pre-training to its end and return the last checkpoint.

    Args:
        start_backend: returns where the learner's ranks will live; it is closed in any case.
        resume: go on from the last checkpoint of ``run``.

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
        with closing(start_backend()) as backend:
            folder = run.checkpoints.absolute()
            learner = LearnerGroup(backend, config.learner.ranks, PretrainLearnerRole, config, folder)
            if checkpoint is not None:
                learner.restore(checkpoint.path.absolute())
                sampler.load_state_dict(checkpoint.counters["sampler"])
            run.go_on()
            loop = _Pretraining(config, learner, checkpoint.update if checkpoint else 0, sampler, validation, counters)
            writer = MetricWriter(run.metrics_path, run.tensorboard, loop.updates if resume else None)
            with writer, Progress() as progress:
                phase = progress.phase(PHASE, settings.updates, "updates", loop.updates)
                with phase, ThreadPoolExecutor(1, "clips") as reader:
                    try:
                        while loop.updates < settings.updates:
                            loss = loop.advance(reader, writer)
                            phase.advance(1, loss=loss)
                    except KeyboardInterrupt:
                        log.warning("interrupted: writing a checkpoint; a second Ctrl-C leaves without it")
                        loop.save()
                        raise
            loop.save()
            prediction = backend.get(learner.call_first("predict", validation[0]))
        run.save_frames("prediction", **prediction._asdict())
        summary = {
            "updates": loop.updates,
            "loss": loop.loss,
            "video_frames": store.total_frames,
            "video_episodes": len(store),
            "held_out_episodes": len(held_out),
        }
        run.update(summary=run.info["summary"] | {key: x for key, x in summary.items() if math.isfinite(x)})
    return checkpoints.paths()[-1]


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
        learner: LearnerGroup,
        updates: int,
        sampler: ClipSampler,
        validation: Frames,
        counters: dict[str, Any],
    ) -> None:
        self.config, self.learner, self.sampler = config, learner, sampler
        self.updates = updates  # done
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
        shares = np.split(clips, self.config.learner.ranks)
        with interrupts_deferred():
            self.updates = self.learner.get(self.learner.call_with_rows("update", shares))[0]
            self._position = position
        self._count += 1
        updates, settings = self.updates, self.config.pretrain
        last = updates == settings.updates
        validate = last or updates % settings.validation_every_updates == 0
        if validate or updates % self.config.telemetry.every_updates == 0:
            self._log(writer, validate)
        if updates % self.config.checkpoint.every_updates == 0:
            self.save()
        return self.loss

    def save(self) -> None:
        """Write a checkpoint of the present update.

        Raises:
            NonFiniteError: a loss was NaN or infinite; nothing is written.
        """
        self.learner.save(self.counters | {"sampler": self._position})

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
            values |= self.learner.get([self.learner.call_first("validate", self.validation)])[0]
        writer.write(self.updates, 0, values)
        self._began, self._waited, self._count = time.monotonic(), 0.0, 0
