"""The pre-training loop: clips from a video store to a world model with latent actions."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from prelar_ray.checkpoint.compatibility import resumable_checkpoint
from prelar_ray.checkpoint.store import Checkpoint, CheckpointStore, is_whole
from prelar_ray.config import RunConfig
from prelar_ray.errors import RoleDied
from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.seeding import generator
from prelar_ray.storage.mirror import mirrored
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.progress import Phase, Progress
from prelar_ray.telemetry.writers import MetricWriter
from prelar_ray.training.backend import Backend, LocalBackend
from prelar_ray.training.learner_role import PretrainLearnerRole
from prelar_ray.training.learners import LearnerGroup
from prelar_ray.training.restarts import Lives
from prelar_ray.types import Frames
from prelar_ray.video.clips import ClipSampler, held_out_episodes, validation_clips
from prelar_ray.video.seen import SeenVideos
from prelar_ray.video.store import VideoStore
from prelar_ray.wording import counted

__all__ = ["pretrain", "pretrain_by_lines"]

PHASE = "pretrain"

log = logging.getLogger(__name__)


def pretrain(
    config: RunConfig, run: RunFolder, resume: bool, start_backend: Callable[[], Backend] = LocalBackend
) -> Path:
    """Run pre-training to its end and return the last checkpoint; see :func:`pretrain_by_lines`."""
    for _ in pretrain_by_lines(config, run, resume, start_backend):
        pass
    return CheckpointStore(run.checkpoints, config.checkpoint.keep_last).paths()[-1]


def pretrain_by_lines(
    config: RunConfig, run: RunFolder, resume: bool, start_backend: Callable[[], Backend] = LocalBackend
) -> Generator[Mapping[str, float]]:
    """Run pre-training to its end; yields every line of metrics when it is written.

    Args:
        start_backend: returns where the learner's ranks will live; it is closed in any case.
        resume: go on from the last checkpoint of ``run``.

    On Ctrl-C, or a KeyboardInterrupt thrown in, a checkpoint is written before the interrupt goes on.

    Raises:
        DataError: the video store cannot be used.
        NonFiniteError: a loss became NaN or infinite.
        CheckpointError: nothing to resume from, other networks than the run's, or a checkpoint could not be written.
        UsageError: the run to resume is longer than ``config`` asks for.
        ConfigError: ``checkpoint.mirror`` cannot be used.
    """
    with mirrored(run, config.checkpoint.mirror, is_whole), run.track(), run.timed(PHASE):
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
        with closing(start_backend()) as backend, Progress() as progress:
            lives = Lives(backend, checkpoints, config, checkpoint)
            with progress.phase(PHASE, settings.updates, "updates", checkpoint.update if checkpoint else 0) as phase:
                while True:
                    try:
                        learner = LearnerGroup(
                            backend, config.learner.ranks, PretrainLearnerRole, config, run.checkpoints.absolute()
                        )
                        loop = _Pretraining(config, run, learner, sampler, validation, counters, lives.checkpoint)
                        yield from loop.run_to_end(phase)
                        prediction = backend.get(learner.call_first("predict", validation[0]))
                        break
                    except RoleDied as death:
                        lives.lose(death)
        run.save_frames("prediction", **prediction._asdict())
        summary = {
            "updates": loop.updates,
            "loss": loop.loss,
            "video_frames": store.total_frames,
            "video_episodes": len(store),
            "held_out_episodes": len(held_out),
        }
        run.update(summary=run.info["summary"] | {key: x for key, x in summary.items() if math.isfinite(x)})


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
        run: RunFolder,
        learner: LearnerGroup,
        sampler: ClipSampler,
        validation: Frames,
        counters: dict[str, Any],
        checkpoint: Checkpoint | None,
    ) -> None:
        self.config, self.run, self.learner, self.sampler = config, run, learner, sampler
        self.validation, self.counters = validation, counters
        self.updates = 0  # done
        if checkpoint is not None:
            learner.restore(checkpoint.path.absolute())
            sampler.load_state_dict(checkpoint.counters["sampler"])
            self.updates = checkpoint.update
        run.go_on()
        self.writer = MetricWriter(run.metrics_path, run.tensorboard, self.updates if checkpoint else None)
        self.loss = float("nan")
        self._next: Future[tuple[Frames, dict[str, Any]]] | None = None
        self._position = sampler.state_dict()  # after the last clips that were learnt from
        self._began, self._waited, self._count = time.monotonic(), 0.0, 0

    def run_to_end(self, phase: Phase) -> Iterator[Mapping[str, float]]:
        """All updates, then a checkpoint; yields lines of metrics as they are written."""
        with self.writer, ThreadPoolExecutor(1, "clips") as reader:
            try:
                while self.updates < self.config.pretrain.updates:
                    line = self.advance(reader, self.writer)
                    phase.reach(self.updates, loss=self.loss)
                    if line:
                        self.learner.backend.report(line)
                        yield line
            except KeyboardInterrupt:
                log.warning("interrupted: writing a checkpoint; a second Ctrl-C leaves without it")
                try:
                    self.save()
                    self.learner.saved()
                except RoleDied as death:  # the interrupt goes on: no other life begins
                    log.warning("%s; the last checkpoint stands", death)
                raise
        self.save()
        self.learner.saved()

    def advance(self, reader: ThreadPoolExecutor, writer: MetricWriter) -> Mapping[str, float] | None:
        """One update; writes metrics, which it returns, and checkpoints when they are due."""
        if self._next is None:
            self._next = reader.submit(self._read)
        asked = time.monotonic()
        clips, position = self._next.result()
        self._waited += time.monotonic() - asked
        self._next = reader.submit(self._read)
        shares = [[share] for share in np.split(clips, self.config.learner.ranks)]
        with interrupts_deferred():
            self.updates = self.learner.get(self.learner.call_with_rows("update", shares))[0]
            self._position = position
        self._count += 1
        updates, settings = self.updates, self.config.pretrain
        last = updates == settings.updates
        validate = last or updates % settings.validation_every_updates == 0
        line = None
        if validate or updates % self.config.telemetry.every_updates == 0:
            line = self._log(writer, validate)
        if updates % self.config.checkpoint.every_updates == 0:
            self.save()
        return line

    def save(self) -> None:
        """Begin to write a checkpoint of the present update.

        Raises:
            NonFiniteError: a loss was NaN or infinite; nothing is written.
            CheckpointError: the one before could not be written.
        """
        self.learner.save(self.counters | {"sampler": self._position})

    def _read(self) -> tuple[Frames, dict[str, Any]]:
        return self.sampler.sample(), self.sampler.state_dict()

    def _log(self, writer: MetricWriter, validate: bool) -> Mapping[str, float]:
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
        return {"update": self.updates, "env_steps": 0, **values}
