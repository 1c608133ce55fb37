"""The runs of a study that are still to do, in the order in which they can start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from prelar_ray.errors import ConfigError
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.plan import PlannedRun

__all__ = ["RunQueue"]

log = logging.getLogger(__name__)

Proposer = Callable[[PlannedRun], PlannedRun]
"""Chooses the values of a run whose values depend on the results before it."""


class RunQueue:
    """Hands out runs in the order of the plan; those that start from a pre-training once it has finished.

    Whether that is so is read from the run folders alone, so that a study that was cut off at any moment resumes from
    them.
    """

    def __init__(self, runs: Sequence[PlannedRun], folder: StudyFolder, propose: Proposer | None = None) -> None:
        """Queue ``runs``.

        Args:
            propose: chooses the values of runs with a slot.
        """
        self._folder, self._propose = folder, propose
        self.pending = list(runs)
        self.running: list[PlannedRun] = []
        self.lost: list[PlannedRun] = []
        """Runs that can never start: their pre-training failed."""

    def next(self) -> PlannedRun | None:
        """The next run that can start; None where all that are pending wait for one that is running, or none is."""
        for run in list(self.pending):
            if run.init and self._folder.status(run.init) != "finished":
                if not self._may_finish(run.init):
                    self.pending.remove(run)
                    self.lost.append(run)
                    log.warning("%s: left out, for its pre-training %s did not finish", run.name, run.init)
                continue
            self.pending.remove(run)
            if chosen := self._with_values(run):
                self.running.append(chosen)
                return chosen
        return None

    def ended(self, run: PlannedRun) -> None:
        """Note that a run ended, however it did."""
        self.running.remove(run)

    def _may_finish(self, name: str) -> bool:
        return any(run.name == name for run in [*self.pending, *self.running])

    def _with_values(self, run: PlannedRun) -> PlannedRun | None:
        """The run with the values proposed for it; None, and a recorded failure, where it cannot have them."""
        if run.slot is None or self._propose is None:
            return run
        try:
            chosen = self._propose(run)
        except ConfigError as error:  # values that contradict each other; the other runs are not held up
            self._folder.note_failure(run.name, str(error))
            log.warning("%s: left out: %s", run.name, error)
            return None
        self._folder.set_labels(chosen.entry)
        return chosen
