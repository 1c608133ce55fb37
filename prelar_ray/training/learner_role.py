"""The learner role of fine-tuning: a learner, and where its checkpoints go."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy.typing as npt

from prelar_ray.checkpoint.compatibility import naming, require_pretraining
from prelar_ray.checkpoint.store import CheckpointStore, load_checkpoint
from prelar_ray.config.schema import RunConfig
from prelar_ray.learning.learner import FinetuneLearner
from prelar_ray.learning.prediction import Prediction, context_frames
from prelar_ray.models.actor_critic import check_action_size
from prelar_ray.types import SequenceBatch

__all__ = ["LearnerRole"]


class LearnerRole:
    """Plain class; a Ray actor may own one."""

    def __init__(self, config: RunConfig, action: int, checkpoints: Path) -> None:
        self.config, self.action = config, action
        self.learner = FinetuneLearner(config, action)
        self.checkpoints = CheckpointStore(checkpoints, config.checkpoint.keep_last)
        self._updating = self._waiting = 0.0
        self._count = 0
        self._idle_since: float | None = None

    def initialise(self, path: Path) -> None:
        """Take over encoder, RSSM and decoder of a pre-training checkpoint.

        Raises:
            CheckpointError: not a pre-training checkpoint, or of other sizes.
        """
        checkpoint = load_checkpoint(path)
        require_pretraining(checkpoint)
        with naming(checkpoint.path):
            self.learner.load_pretrained(checkpoint.state["model"])

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of this run.

        Raises:
            CheckpointError: it cannot be read, is of another configuration or a task with other actions.
        """
        checkpoint = load_checkpoint(path)
        with naming(checkpoint.path):
            check_action_size(checkpoint.state["actor_critic"], self.action, self.config.env.task)
            self.learner.load_state_dict(checkpoint.state)

    def update(self, batch: SequenceBatch) -> int:
        """One update; returns how many there were."""
        began = time.monotonic()
        if self._idle_since is not None:
            self._waiting += began - self._idle_since
        self.learner.update(batch)
        self._idle_since = time.monotonic()
        self._updating += self._idle_since - began
        self._count += 1
        return self.learner.updates

    def metrics(self) -> dict[str, float]:
        """Means since the last call, timings included.

        Raises:
            NonFiniteError: one of them was NaN or infinite.
        """
        values = self.learner.metrics()
        if self._count:
            values |= {"time/update": self._updating / self._count, "time/wait_for_data": self._waiting / self._count}
        self._updating, self._waiting, self._count, self._idle_since = 0.0, 0.0, 0, None
        return values

    def policy_weights(self) -> dict[str, npt.NDArray[Any]]:
        """See :meth:`FinetuneLearner.policy_weights`.

        Raises:
            NonFiniteError: a metric was NaN or infinite: such weights must not act.
        """
        self.learner.check_finite()
        return self.learner.policy_weights()

    def save(self, counters: dict[str, Any]) -> int:
        """Write a checkpoint and return its update.

        Raises:
            NonFiniteError: a metric was NaN or infinite; nothing is written.
            CheckpointError: it cannot be written.
        """
        learner = self.learner
        learner.check_finite()
        self.checkpoints.save("finetune", self.config, learner.updates, learner.state_dict(), counters)
        return learner.updates

    def predict(self, batch: SequenceBatch) -> Prediction:
        """Reconstruct and predict the first segment of a batch."""
        return self.learner.predict(batch, context_frames(batch.shape[1]))
