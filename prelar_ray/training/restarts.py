"""Beginning again: what a run does when a role dies that nothing can take the place of."""

from __future__ import annotations

import logging
import time

from prelar_ray.checkpoint.compatibility import resumable_checkpoint
from prelar_ray.checkpoint.store import Checkpoint, CheckpointStore
from prelar_ray.config import RunConfig
from prelar_ray.errors import RoleDied
from prelar_ray.training.backend import Backend

__all__ = ["Lives"]

DEATHS_IN_A_ROW = 3
"""Deaths without a new checkpoint in between after which all roles begin again; one more ends the run."""

PAUSE_SECONDS = 1.0
"""Before roles begin again, doubled with every life in vain."""

log = logging.getLogger(__name__)


class Lives:
    """All roles begin again at the last checkpoint, unless they came no further the last times."""

    def __init__(
        self, backend: Backend, checkpoints: CheckpointStore, config: RunConfig, checkpoint: Checkpoint | None
    ) -> None:
        self.backend, self.checkpoints, self.config = backend, checkpoints, config
        self.checkpoint = checkpoint
        """Where the present life began; None where there was nothing."""
        self._in_vain = 0

    def lose(self, death: RoleDied) -> None:
        """End all roles, and make :attr:`checkpoint` what the next life begins at.

        Raises:
            RoleDied: there is none, or no sense in it.
        """
        self.backend.stop_all()
        if not self.backend.parallel or not self.checkpoints.paths():
            raise death
        began, self.checkpoint = self.checkpoint, resumable_checkpoint(self.checkpoints, self.config)
        new = began is None or self.checkpoint.update > began.update
        self._in_vain = 1 if new else self._in_vain + 1
        if self._in_vain > DEATHS_IN_A_ROW:
            raise death
        log.warning("%s; all roles begin again at the checkpoint of update %d", death, self.checkpoint.update)
        time.sleep(PAUSE_SECONDS * 2**self._in_vain)  # a node that goes down is known to be gone only later
