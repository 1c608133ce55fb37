"""The learner role of either phase: one rank's learner, and where its checkpoints go."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch.distributed as dist

from prelar_ray.acting.policy import PolicyWeights, check_actions
from prelar_ray.action_space import ActionSpace
from prelar_ray.checkpoint.compatibility import naming, require_pretraining
from prelar_ray.checkpoint.store import Checkpoint, CheckpointStore, load_checkpoint, snapshot
from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError, ResourceError
from prelar_ray.learning.device import resolve_device
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.learning.prediction import Prediction, context_frames
from prelar_ray.learning.ranks import ALONE, Ranks
from prelar_ray.types import Frames, SequenceBatch

__all__ = ["FinetuneLearnerRole", "LearnerRole", "PretrainLearnerRole", "Rows"]

Rows = SequenceBatch | Frames | None
"""Rows of a fine-tuning batch: segments of a replay shard that gives any, or clips of videos."""
Learner = TypeVar("Learner", PretrainLearner, FinetuneLearner)
Part = TypeVar("Part")
"""What a rank's share of a batch is made of."""


class LearnerRole(Generic[Learner, Part]):
    """Plain class; a Ray actor may own one. Where there are several ranks, each begins with :meth:`join`."""

    phase: str
    learner: Learner

    def __init__(self, config: RunConfig, checkpoints: Path, rank: int = 0) -> None:
        self.config, self.rank = config, rank
        self.checkpoints = CheckpointStore(checkpoints, config.checkpoint.keep_last)
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None
        if config.learner.ranks == 1:
            self.learner = self._make(ALONE)

    def _make(self, ranks: Ranks) -> Learner:
        raise NotImplementedError

    def join(self, address: str) -> None:
        """Meet the other ranks at ``address`` (``host:port``), then set the learner up.

        Raises:
            ResourceError: not all of them came.
        """
        device, size = resolve_device(self.config.device, self.config.learner.gpus), self.config.learner.ranks
        try:
            ranks = Ranks.join(address, self.rank, size, device)
        except dist.DistError as error:
            reason = str(error).strip().partition("\n")[0]
            raise ResourceError(
                f"learner.ranks={size}: rank {self.rank} did not meet the others at {address} ({reason}); "
                "see that the nodes can reach each other and the driver's on any port"
            ) from error
        self.learner = self._make(ranks)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of this run.

        Raises:
            CheckpointError: it cannot be read, is of another configuration or a task with other actions.
        """
        checkpoint = load_checkpoint(path)
        with naming(checkpoint.path):
            self._check(checkpoint)
            self.learner.load_state_dict(checkpoint.state)

    def _check(self, checkpoint: Checkpoint) -> None:
        """Raise what could be said better than that tensors do not fit."""

    def update(self, *parts: Sequence[Part]) -> int:
        """Make successive updates on this rank's rows of the batches; returns how many there were so far.

        Args:
            parts: from every shard, a part for each update.
        """
        for of_update in zip(*parts, strict=True):
            self._update(*of_update)
        return self.learner.updates

    def _update(self, *parts: Part) -> None:
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Means since the last call, timings included.

        Raises:
            NonFiniteError: one of them was NaN or infinite.
            CheckpointError: the last checkpoint could not be written.
        """
        if self._writing is not None and self._writing.done():
            self.saved()
        return self.learner.metrics() | self.learner.clock.read()

    def save(self, counters: dict[str, Any]) -> int:
        """Begin to write a checkpoint, on the first rank, and return its update; learning may continue meanwhile.

        Raises:
            NonFiniteError: a metric was NaN or infinite; nothing is written.
            RanksDiverged: ranks hold different parameters; nothing is written.
            CheckpointError: the one before could not be written.
        """
        learner = self.learner
        learner.check_finite()
        learner.check_ranks()
        state = learner.state_dict()  # of all ranks' generators: each has a part in it
        if self.rank == 0:
            self.saved()
            args = self.phase, self.config, learner.updates, snapshot(state), counters
            self._writing = self._writer.submit(self.checkpoints.save, *args)
        return learner.updates

    def saved(self) -> None:
        """Wait until the checkpoint begun last is on disk.

        Raises:
            CheckpointError: it cannot be written; those before are intact.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Let the checkpoint begun last be written to its end."""
        self._writer.shutdown()


class PretrainLearnerRole(LearnerRole[PretrainLearner, Frames]):
    """Learns from clips."""

    phase = "pretrain"

    def _make(self, ranks: Ranks) -> PretrainLearner:
        return PretrainLearner(self.config, ranks=ranks)

    def _update(self, *parts: Frames) -> None:
        (clips,) = parts
        self.learner.update(clips)

    def validate(self, clips: Frames) -> dict[str, float]:
        """See :meth:`PretrainLearner.validate`."""
        return self.learner.validate(clips)

    def predict(self, clip: Frames) -> Prediction:
        """Reconstruct and predict a clip."""
        return self.learner.predict(clip, context_frames(len(clip)))


class FinetuneLearnerRole(LearnerRole[FinetuneLearner, Rows]):
    """Learns from replayed experience, and rehearses videos."""

    phase = "finetune"

    def __init__(
        self,
        config: RunConfig,
        actions: ActionSpace | int,
        checkpoints: Path,
        rank: int = 0,
        terminates: bool = False,
    ) -> None:
        self.actions, self.terminates = ActionSpace.of(actions), terminates
        super().__init__(config, checkpoints, rank)

    def _make(self, ranks: Ranks) -> FinetuneLearner:
        return FinetuneLearner(self.config, self.actions, ranks=ranks, terminates=self.terminates)

    def _update(self, *parts: Rows) -> None:
        segments = [part for part in parts if isinstance(part, SequenceBatch)]
        clips = [part for part in parts if isinstance(part, np.ndarray)]  # none, or those of the one draw
        self.learner.update(SequenceBatch.joined(segments), *clips)

    def _check(self, checkpoint: Checkpoint) -> None:
        check_actions(checkpoint.state["actor_critic"], self.actions, self.config.env.task)
        theirs = any(key.startswith("discount.") for key in checkpoint.state["model"])
        if theirs != (self.learner.model.discount is not None):
            made, setting = ("with", "always") if theirs else ("without", "never")
            raise CheckpointError(
                f"made {made} a discount head; use behaviour.discount_head={setting}, or start a new --out"
            )

    def initialise(self, path: Path) -> None:
        """Take over encoder, RSSM and decoder of a pre-training checkpoint.

        Raises:
            CheckpointError: not a pre-training checkpoint, or of other sizes.
        """
        checkpoint = load_checkpoint(path)
        require_pretraining(checkpoint)
        with naming(checkpoint.path):
            self.learner.load_pretrained(checkpoint.state["model"])

    def policy_weights(self) -> PolicyWeights:
        """See :meth:`FinetuneLearner.policy_weights`.

        Raises:
            NonFiniteError: a metric was NaN or infinite: such weights must not act.
        """
        self.learner.check_finite()
        return self.learner.policy_weights()

    def predict(self, batch: SequenceBatch | None) -> Prediction:
        """Reconstruct and predict the first segment of a batch, which there has to be."""
        assert batch is not None, "a run that has learnt has segments"
        return self.learner.predict(batch, context_frames(batch.shape[1]))
