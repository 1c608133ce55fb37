"""Optuna's proposals for the spaces of fine-tunings, after what earlier runs of the study came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.plan import PlannedRun, changed
from prelar_ray.study.sweep import Range, Sweep

__all__ = ["Proposals"]


class Proposals:
    """Chooses the values of a run when it begins; seeds of one slot share them.

    What Optuna knows is read from the finished runs each time, so that a resumed study goes on with the same knowledge.
    """

    def __init__(self, sweep: Sweep, runs: Sequence[PlannedRun], folder: StudyFolder) -> None:
        """Plan to propose for the runs of ``sweep``; Optuna has to be installed."""
        import optuna  # an optional extra

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.sweep, self.runs, self.folder = optuna, sweep, list(runs), folder
        assert sweep.finetune is not None
        self.space = {key: self._distribution(values) for key, values in sweep.finetune.space.items()}

    def __call__(self, run: PlannedRun) -> PlannedRun:
        """Return the run with its values."""
        for sibling in self.runs:
            if _slot(sibling) == _slot(run) and (labels := self._chosen(sibling)):
                return changed(run, labels)
        assert run.slot is not None
        sampler = self.optuna.samplers.TPESampler(seed=self.sweep.search.seed + run.slot)
        study = self.optuna.create_study(direction="maximize", sampler=sampler)
        for other in self.runs:
            if (other.method, other.task) == (run.method, run.task) and (labels := self._chosen(other)):
                value = self._return_of(other)
                if value is not None:
                    study.add_trial(
                        self.optuna.trial.create_trial(params=labels, distributions=self.space, value=value)
                    )
        return changed(run, study.ask(self.space).params)

    def _chosen(self, run: PlannedRun) -> dict[str, Any]:
        labels = self.folder.labels(run.name)
        return {key: labels[key] for key in self.space} if set(self.space) <= set(labels) else {}

    def _return_of(self, run: PlannedRun) -> float | None:
        if self.folder.status(run.name) != "finished":
            return None
        summary = RunFolder.open(self.folder.run_path(run.name)).info["summary"]
        return float(summary["return"]) if "return" in summary else None

    def _distribution(self, values: tuple[Any, ...] | Range) -> Any:
        distributions = self.optuna.distributions
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
