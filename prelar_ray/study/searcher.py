"""Hands the runs of a study to Ray Tune, each once what it starts from is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher

from prelar_ray.errors import ConfigError
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.plan import PlannedRun

__all__ = ["RunSearcher"]

log = logging.getLogger(__name__)

Proposer = Callable[[PlannedRun], PlannedRun]
"""Chooses the values of a run whose values depend on those before it."""


class RunSearcher(Searcher):
    """Suggests runs in the order of the plan; those that wait for a pre-training come when it has finished.

    What happened is read from the run folders alone, so that a study that was cut off at any moment goes on from them.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        folder: StudyFolder,
        settings: Callable[[PlannedRun], dict[str, Any]],
        propose: Proposer | None = None,
    ) -> None:
        """Plan to hand out ``runs``.

        Args:
            settings: what the trial of a run is configured with.
            propose: chooses the values of runs with a slot.
        """
        super().__init__()
        self.folder, self._settings, self._propose = folder, settings, propose
        self.waiting = list(runs)
        self.begun: dict[str, PlannedRun] = {}  # by trial
        self.lost: list[PlannedRun] = []
        """Runs that never can begin: their pre-training failed."""

    def suggest(self, trial_id: str) -> Any:
        """Settings of the next run; None while those left wait for one under way; FINISHED where none is left."""
        for run in list(self.waiting):
            start = self.folder.status(run.init) if run.init else "finished"
            if start == "finished":
                self.waiting.remove(run)
                if run.slot is not None and self._propose:
                    try:
                        run = self._propose(run)
                    except ConfigError as error:  # values that contradict each other; the others go on
                        self.folder.note_failure(run.name, str(error))
                        log.warning("%s: left out: %s", run.name, error)
                        continue
                    self.folder.set_labels(run.entry)
                self.begun[trial_id] = run
                return self._settings(run)
            if run.init and not self._under_way(run.init):
                self.waiting.remove(run)
                self.lost.append(run)
                log.warning("%s: left out, for its pre-training %s did not finish", run.name, run.init)
        return None if self.waiting else str(Searcher.FINISHED)

    def _under_way(self, name: str) -> bool:
        return any(run.name == name for run in [*self.waiting, *self.begun.values()])

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Forget a run that has ended, however it did."""
        self.begun.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: run folders hold it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see :meth:`save`."""
