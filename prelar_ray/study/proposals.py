"""Optuna's proposals for the spaces of fine-tunings, after what earlier runs of the study came to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prelar_ray.storage.files import filter_json_lines
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.plan import PlannedRun, changed
from prelar_ray.study.sweep import Range, Sweep

__all__ = ["Proposals"]

RUN = "run"
"""Attribute of a trial in the journal: the run that it stands for."""


class Proposals:
    """Chooses the values of a run when it starts; seeds of one slot share them.

    Optuna keeps what it knows in a journal in the study's folder, one Optuna study for each method, task and space. The
    first run of a slot asks it for values. Every run that finished is told to it before the next one asks, also those
    that it does not have: of other seeds, of a study older than the journal, or from before the space was changed.
    """

    def __init__(self, sweep: Sweep, runs: Sequence[PlannedRun], folder: StudyFolder) -> None:
        """Open the journal; Optuna has to be installed.

        Raises:
            DataError: the journal cannot be read or written.
        """
        import optuna  # an optional extra

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._seed, self._runs, self._folder = optuna, sweep.search.seed, list(runs), folder
        assert sweep.finetune is not None
        self._space = {key: self._distribution(values) for key, values in sweep.finetune.space.items()}
        self._storage = self._journal(folder.proposals)

    def __call__(self, run: PlannedRun) -> PlannedRun:
        """Return the run with its values."""
        study = self._study(run)
        self._tell(study, run)
        return changed(run, self._values_of_slot(study, run) or self._ask(study, run))

    def _journal(self, path: Path) -> Any:
        from optuna.storages import JournalStorage, journal

        # One process drives a study, so nobody else is writing: a line cut off and a lock left behind are a kill's.
        # Optuna appends to such a line, and cannot read the journal from then on; it waits 30 s for such a lock.
        filter_json_lines(path, keep=lambda row: True)
        Path(f"{path}.lock").unlink(missing_ok=True)
        lock = journal.JournalFileOpenLock(str(path))
        return JournalStorage(journal.JournalFileBackend(str(path), lock))

    def _study(self, run: PlannedRun) -> Any:
        assert run.slot is not None
        # A changed space makes another study: Optuna refuses other choices of a parameter within one.
        to_json = self._optuna.distributions.distribution_to_json
        space = "".join(f"{key}={to_json(values)};" for key, values in sorted(self._space.items()))
        return self._optuna.create_study(
            storage=self._storage,
            study_name=f"{run.method} {run.task} {hashlib.sha256(space.encode()).hexdigest()[:8]}",
            sampler=self._optuna.samplers.TPESampler(seed=self._seed + run.slot),  # the same after a resume
            direction="maximize",
            load_if_exists=True,
        )

    def _tell(self, study: Any, run: PlannedRun) -> None:
        """Tell Optuna of the runs of the same method and task that finished since."""
        told = {trial.user_attrs.get(RUN): trial for trial in study.trials}
        for other in self._runs:
            trial = told.get(other.name)
            if (other.method, other.task) != (run.method, run.task) or (trial and trial.state.is_finished()):
                continue
            labels, value = self._labels(other), self._return_of(other)
            if not labels or value is None:
                continue
            if trial:
                study.tell(trial.number, value)
                continue
            with suppress(ValueError):  # its values lie outside the present space
                make = self._optuna.trial.create_trial
                study.add_trial(
                    make(params=labels, distributions=self._space, value=value, user_attrs={RUN: other.name})
                )

    def _values_of_slot(self, study: Any, run: PlannedRun) -> dict[str, Any] | None:
        """The values that a run of the same slot has, or got just before a kill, which no plan has."""
        slot = [other for other in self._runs if _slot(other) == _slot(run)]
        recorded = next((labels for other in slot if (labels := self._labels(other))), None)
        names = {other.name for other in slot}
        asked = (dict(trial.params) for trial in study.trials if trial.user_attrs.get(RUN) in names)
        return recorded or next(asked, None)

    def _ask(self, study: Any, run: PlannedRun) -> dict[str, Any]:
        trial = study.ask(self._space)
        trial.set_user_attr(RUN, run.name)
        return dict(trial.params)

    def _labels(self, run: PlannedRun) -> dict[str, Any]:
        labels = self._folder.labels(run.name)
        return {key: labels[key] for key in self._space} if set(self._space) <= set(labels) else {}

    def _return_of(self, run: PlannedRun) -> float | None:
        if self._folder.status(run.name) != "finished":
            return None
        summary = RunFolder.open(self._folder.run_path(run.name)).info["summary"]
        return float(summary["return"]) if "return" in summary else None

    def _distribution(self, values: tuple[Any, ...] | Range) -> Any:
        distributions = self._optuna.distributions
        if isinstance(values, tuple):
            return distributions.CategoricalDistribution(values)
        if values.choice is not None:
            return distributions.CategoricalDistribution(values.choice)
        if values.integers is not None:
            return distributions.IntDistribution(*values.integers)
        if values.uniform is not None:
            return distributions.FloatDistribution(*values.uniform)
        assert values.log_uniform is not None
        return distributions.FloatDistribution(*values.log_uniform, log=True)


def _slot(run: PlannedRun) -> str:
    return run.name.rpartition("/")[0]
