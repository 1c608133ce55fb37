"""The evaluations of a run: one under way at a time, and another evaluator in the place of one that dies or hangs."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from prelar_ray.acting.evaluator import Evaluation, Evaluator
from prelar_ray.config.schema import RunConfig
from prelar_ray.errors import RoleDied
from prelar_ray.run_folder import RunFolder
from prelar_ray.training.backend import Backend

__all__ = ["Evaluated", "Evaluations", "record"]

POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """An evaluation and the moment of the run that it is of."""

    update: int
    env_steps: int
    result: Evaluation


@dataclass(frozen=True)
class _UnderWay:
    update: int
    env_steps: int
    future: Any
    began: float  # seconds, monotonic


class Evaluations:
    """Hands weights to the evaluator, and its results on."""

    def __init__(self, backend: Backend, config: RunConfig, begun: int) -> None:
        """Start the evaluator; ``begun``, which the loop counts, are the evaluations so far."""
        self.backend, self.config, self.begun = backend, config, begun
        self._evaluator = backend.start("evaluator", Evaluator, config)
        self._under_way: _UnderWay | None = None

    def begin(self, weights: Any, update: int, env_steps: int) -> None:
        """Evaluate ``weights`` (a future); the evaluation before has to be settled."""
        assert self._under_way is None
        future = self._evaluator.call("evaluate", weights, self.config.evaluation.episodes, self.begun)
        self._under_way = _UnderWay(update, env_steps, future, time.monotonic())

    @property
    def is_settled(self) -> bool:
        """Whether :meth:`settle` has something to hand over, or to give up, at once."""
        under_way = self._under_way
        return under_way is not None and (bool(self.backend.wait([under_way.future], 0.0)) or self._is_late(under_way))

    def settle(self) -> Evaluated | None:
        """Wait for the evaluation that is under way; None if there is none, or it was lost with its evaluator."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return None
        try:
            while not self.backend.wait([under_way.future], POLL_SECONDS):
                if self._is_late(under_way):
                    limit = self.config.evaluation.timeout
                    raise RoleDied("evaluator", f"no answer for evaluation.timeout={limit:g} s")
            return Evaluated(under_way.update, under_way.env_steps, self.backend.get(under_way.future))
        except RoleDied as error:
            if error.role != "evaluator":  # the learner, whose weights it was to get
                raise
            log.warning("%s; this evaluation is left out", error)
            self.backend.stop(self._evaluator)
            self._evaluator = self.backend.start("evaluator", Evaluator, self.config)
            return None

    def _is_late(self, under_way: _UnderWay) -> bool:
        return self.backend.parallel and time.monotonic() - under_way.began > self.config.evaluation.timeout


def record(run: RunFolder, evaluated: Evaluated, task: str) -> dict[str, float]:
    """Append an evaluation to ``evaluations.jsonl``, and return what it adds to the metrics.

    Raises:
        DataError: it cannot be written.
    """
    result = evaluated.result
    mean, success = (sum(x) / len(x) for x in (result.returns, result.successes))
    run.append_evaluation(
        {
            "update": evaluated.update,
            "env_steps": evaluated.env_steps,
            "task": task,
            "returns": list(result.returns),
            "successes": [bool(x) for x in result.successes],
            "success_rule": "any step",
            "policy": "mode",
        }
    )
    log.info("evaluation at %d env steps: return %.1f, success %.2f", evaluated.env_steps, mean, success)
    return {"evaluation/return_mean": mean, "evaluation/success_rate": success}
