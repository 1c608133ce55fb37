"""What a run does when a role dies that cannot be replaced by itself: all roles restart at the last checkpoint."""

from __future__ import annotations

import logging
import time

from prelar_ray.checkpoint.compatibility import resumable_checkpoint
from prelar_ray.checkpoint.store import Checkpoint, CheckpointStore
from prelar_ray.config import RunConfig
from prelar_ray.errors import RoleDied
from prelar_ray.training.backend import Backend

__all__ = ["RestartPolicy"]

DEATHS_IN_A_ROW = 3
"""Deaths without a new checkpoint in between after which all roles restart; one more ends the run."""

PAUSE_SECONDS = 1.0
"""Before roles restart, doubled with every restart without progress."""

log = logging.getLogger(__name__)


class RestartPolicy:
    """Restarts all roles, unless the last restarts led to no new checkpoint."""

    def __init__(self, checkpoints: CheckpointStore, config: RunConfig) -> None:
        self.checkpoints, self.config = checkpoints, config
        self._without_progress = 0

    def restart(self, death: RoleDied, backend: Backend, started_from: Checkpoint | None) -> Checkpoint:
        """End all roles, and return the checkpoint to restart from.

        Args:
            started_from: the checkpoint that the roles last started from.

        Raises:
            RoleDied: there is no checkpoint, or restarting again has no prospect.
        """
        backend.stop_all()
        if not backend.parallel or not self.checkpoints.paths():
            raise death
        checkpoint = resumable_checkpoint(self.checkpoints, self.config)
        progressed = started_from is None or checkpoint.update > started_from.update
        self._without_progress = 1 if progressed else self._without_progress + 1
        if self._without_progress > DEATHS_IN_A_ROW:
            raise death
        log.warning("%s; all roles restart at the checkpoint of update %d", death, checkpoint.update)
        time.sleep(PAUSE_SECONDS * 2**self._without_progress)  # Ray notices only later that a node went down
        return checkpoint
