"""The evaluations of a run: one under way at a time, and another evaluator in the place of one that dies or hangs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prelar_ray.acting.evaluator import Evaluation, Evaluator
from prelar_ray.checkpoint.store import CheckpointStore, load_checkpoint
from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError, RoleDied
from prelar_ray.models.acting_weights import acting_weights
from prelar_ray.storage.records import EvaluationRecord
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.backend import Backend

__all__ = ["Evaluated", "Evaluations", "record_evaluation"]

POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """An evaluation and the moment of the run that it is of."""

    update: int
    env_steps: int
    result: Evaluation


@dataclass
class _Owed:
    """An evaluation that has no result yet."""

    update: int
    env_steps: int
    round: int  # says which episodes it sees
    weights: Any  # arrays by name, or a future of them
    future: Any = None  # once the evaluator was asked
    began: float = 0.0  # seconds, monotonic


class Evaluations:
    """Hands weights to the evaluator, one evaluation after the other, and its results on in the same order.

    Each is of the weights of the moment at which it was due, however long it waits for those before.
    """

    def __init__(self, backend: Backend, config: RunConfig, counters: Mapping[str, Any]) -> None:
        """Start the evaluator; ``counters`` are those of a checkpoint to go on from, or empty."""
        self.backend, self.config = backend, config
        self._rounds: int = counters.get("evaluations", 0)
        self._lost: list[dict[str, int]] = counters.get("evaluations_owed", [])
        self._evaluator = backend.start("evaluator", Evaluator, config)
        self._owed: list[_Owed] = []

    def counters(self) -> dict[str, Any]:
        """What a checkpoint has to know; JSON-able."""
        owed = [{"update": x.update, "env_steps": x.env_steps, "round": x.round} for x in self._owed]
        return {"evaluations": self._rounds, "evaluations_owed": owed}

    def owe(self, weights: Any, update: int, env_steps: int) -> None:
        """Take on an evaluation of ``weights`` (a future); :meth:`serve` begins it."""
        self._rounds += 1
        self._owed.append(_Owed(update, env_steps, self._rounds, weights))

    def serve(self) -> None:
        """Give the evaluator, unless it is busy, what is owed first."""
        if self._owed and self._owed[0].future is None:
            owed = self._owed[0]
            episodes = self.config.evaluation.episodes
            owed.future = self._evaluator.call("evaluate", owed.weights, episodes, owed.round)
            owed.began = time.monotonic()

    def resume(self, run: RunFolder, checkpoints: CheckpointStore) -> None:
        """Begin again what was owed when the checkpoint was written and did not come to a result later.

        Raises:
            DataError: a line of ``evaluations.jsonl`` is damaged.
        """
        known = {evaluation.update for evaluation in run.evaluations()}
        for owed in self._lost:
            if owed["update"] in known:
                continue
            try:
                state = load_checkpoint(checkpoints.path(owed["update"])).state
            except CheckpointError as error:
                log.warning("%s; the evaluation that was under way is left out", error)
                continue
            weights = acting_weights(state["model"], state["actor_critic"])
            self._owed.append(_Owed(owed["update"], owed["env_steps"], owed["round"], weights))
        self.serve()

    @property
    def are_owed(self) -> bool:
        """Whether there is something to wait for."""
        return bool(self._owed)

    @property
    def is_settled(self) -> bool:
        """Whether :meth:`settle` has something to hand over, or to give up, at once."""
        if not self._owed or self._owed[0].future is None:
            return False
        return bool(self.backend.wait([self._owed[0].future], 0.0)) or self._is_late(self._owed[0])

    def settle(self) -> Evaluated | None:
        """Wait for the evaluation that was begun first; None if it was lost with its evaluator. Begins the next."""
        owed = self._owed[0]
        evaluated = None
        try:
            while not self.backend.wait([owed.future], POLL_SECONDS):
                if self._is_late(owed):
                    limit = self.config.evaluation.timeout
                    raise RoleDied("evaluator", f"no answer for evaluation.timeout={limit:g} s")
            evaluated = Evaluated(owed.update, owed.env_steps, self.backend.get(owed.future))
        except RoleDied as error:
            if error.role != "evaluator":  # the learner, whose weights it was to get
                raise
            log.warning("%s; this evaluation is left out", error)
            self.backend.stop(self._evaluator)
            self._evaluator = self.backend.start("evaluator", Evaluator, self.config)
        self._owed.pop(0)
        self.serve()
        return evaluated

    def _is_late(self, owed: _Owed) -> bool:
        return self.backend.parallel and time.monotonic() - owed.began > self.config.evaluation.timeout


def record_evaluation(run: RunFolder, evaluated: Evaluated, task: str) -> dict[str, float]:
    """Append an evaluation to ``evaluations.jsonl``, and return what it adds to the metrics.

    Raises:
        DataError: it cannot be written.
    """
    record = EvaluationRecord(
        update=evaluated.update,
        env_steps=evaluated.env_steps,
        task=task,
        returns=evaluated.result.returns,
        successes=evaluated.result.successes,
        success_rule="any step",
        policy="mode",
    )
    run.append_evaluation(record)
    mean, success = record.mean_return, record.success_rate
    log.info("evaluation at %d env steps: return %.1f, success %.2f", evaluated.env_steps, mean, success)
    return {"evaluation/return_mean": mean, "evaluation/success_rate": success}
