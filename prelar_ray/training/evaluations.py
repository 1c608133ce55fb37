"""The evaluations of a run: one in flight at a time, and a new evaluator for one that dies or hangs.

Where evaluating is slower than training, only the newest wait: each of them holds weights in memory and a checkpoint.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prelar_ray.acting.evaluator import EvaluationResult, Evaluator
from prelar_ray.acting.policy import PolicyWeights
from prelar_ray.checkpoint.store import CheckpointStore, load_checkpoint
from prelar_ray.config import RunConfig
from prelar_ray.errors import CheckpointError, RoleDied
from prelar_ray.models.acting_weights import acting_weights
from prelar_ray.roles import RoleId
from prelar_ray.storage.records import ANY_STEP, NO_SUCCESS, EvaluationRecord
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.backend import Backend, Future, by_reference

__all__ = ["Evaluated", "Evaluations", "record_evaluation"]

EVALUATOR = RoleId("evaluator")
POLL_SECONDS = 1.0
MOST_WAITING = 4
"""Evaluations that wait for the one in flight; of more, the oldest are left out."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """An evaluation and the moment of the run that it is of."""

    update: int
    env_steps: int
    result: EvaluationResult


@dataclass
class _Pending:
    """An evaluation that has no result yet."""

    update: int
    env_steps: int
    round: int  # says which episodes it sees
    weights: PolicyWeights | Future[PolicyWeights]
    future: Future[EvaluationResult] | None = None  # once the evaluator was asked
    began: float = 0.0  # seconds, monotonic


class Evaluations:
    """A queue of evaluations. Each is of the weights of the moment at which it was due, however long it waits."""

    def __init__(self, backend: Backend, config: RunConfig, counters: Mapping[str, Any]) -> None:
        """Start the evaluator; ``counters`` are those of a checkpoint to resume from, or empty."""
        self.backend, self.config = backend, config
        self._rounds: int = counters.get("evaluations", 0)
        self._interrupted: list[dict[str, int]] = counters.get("evaluations_owed", [])
        self.skipped: int = counters.get("evaluations_skipped", 0)
        """Evaluations of the run so far that were left out because others took too long."""
        self._evaluator = backend.start(EVALUATOR, Evaluator, config)
        self._pending: list[_Pending] = []

    def counters(self) -> dict[str, Any]:
        """What a checkpoint has to know; JSON-able."""
        pending = [{"update": x.update, "env_steps": x.env_steps, "round": x.round} for x in self._pending]
        return {"evaluations": self._rounds, "evaluations_owed": pending, "evaluations_skipped": self.skipped}

    @property
    def updates(self) -> set[int]:
        """Of the checkpoints that evaluations without a result are of."""
        return {pending.update for pending in self._pending}

    def enqueue(self, weights: Future[PolicyWeights], update: int, env_steps: int) -> None:
        """Add an evaluation, and leave the oldest out where too many wait; :meth:`start_next` begins the next."""
        self._rounds += 1
        self._pending.append(_Pending(update, env_steps, self._rounds, weights))
        waiting = [pending for pending in self._pending if pending.future is None]
        for oldest in waiting[:-MOST_WAITING]:
            self._pending.remove(oldest)
            self._skip(oldest)

    def start_next(self) -> None:
        """Give the evaluator, unless it is busy, the evaluation that waits longest."""
        if not self._pending or self._pending[0].future is not None:
            return
        pending, episodes = self._pending[0], self.config.evaluation.episodes
        weights = by_reference(pending.weights) if isinstance(pending.weights, Future) else pending.weights
        pending.future = self._evaluator.call(Evaluator.evaluate, weights, episodes, pending.round)
        pending.began = time.monotonic()

    def resume(self, run: RunFolder, checkpoints: CheckpointStore) -> None:
        """Repeat the evaluations that were pending when the checkpoint was written and have no result yet.

        Raises:
            DataError: a line of ``evaluations.jsonl`` is damaged.
        """
        known = {evaluation.update for evaluation in run.evaluations()}
        for pending in self._interrupted:
            if pending["update"] in known:
                continue
            try:
                state = load_checkpoint(checkpoints.path(pending["update"])).state
            except CheckpointError as error:
                log.warning("%s; the evaluation that was interrupted is left out", error)
                continue
            weights = acting_weights(state["model"], state["actor_critic"])
            self._pending.append(_Pending(pending["update"], pending["env_steps"], pending["round"], weights))
        self.start_next()

    @property
    def are_pending(self) -> bool:
        """Whether there is something to wait for."""
        return bool(self._pending)

    @property
    def is_done(self) -> bool:
        """Whether :meth:`finish` has a result, or gives up, at once."""
        if not self._pending or self._pending[0].future is None:
            return False
        return bool(self.backend.wait([self._pending[0].future], 0.0)) or self._is_late(self._pending[0])

    def finish(self) -> Evaluated | None:
        """Wait for the evaluation in flight; None if it was lost with its evaluator. Starts the next."""
        pending = self._pending[0]
        assert pending.future is not None, "started"
        evaluated = None
        try:
            while not self.backend.wait([pending.future], POLL_SECONDS):
                if self._is_late(pending):
                    limit = self.config.evaluation.timeout
                    raise RoleDied(EVALUATOR, f"no answer for evaluation.timeout={limit:g} s")
            evaluated = Evaluated(pending.update, pending.env_steps, self.backend.get(pending.future))
        except RoleDied as error:
            if error.role != EVALUATOR:  # the learner, whose weights it was to get
                raise
            log.warning("%s; this evaluation is left out", error)
            self.backend.stop(self._evaluator)
            self._evaluator = self.backend.start(EVALUATOR, Evaluator, self.config)
        self._pending.pop(0)
        self.start_next()
        return evaluated

    def _skip(self, left_out: _Pending) -> None:
        self.skipped += 1
        if self.skipped & (self.skipped - 1) == 0:  # the 1st, 2nd, 4th, ...: a slow evaluator skips most of them
            log.warning(
                "the evaluation at %d env steps is left out, %d so far: evaluating takes longer than "
                "evaluation.every_env_steps=%d; the newest are kept. Raise that, lower evaluation.episodes=%d, or use "
                "more evaluation.envs and evaluation.workers",
                left_out.env_steps,
                self.skipped,
                self.config.evaluation.every_env_steps,
                self.config.evaluation.episodes,
            )

    def _is_late(self, pending: _Pending) -> bool:
        return self.backend.parallel and time.monotonic() - pending.began > self.config.evaluation.timeout


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
        success_rule=ANY_STEP if evaluated.result.successes else NO_SUCCESS,
        policy="mode",
        replaced=evaluated.result.replaced,
    )
    run.append_evaluation(record)
    values, said = {"evaluation/return_mean": record.mean_return}, f"return {record.mean_return:.1f}"
    if record.success_rate is not None:
        values["evaluation/success_rate"] = record.success_rate
        said += f", success {record.success_rate:.2f}"
    if record.replaced:
        said += f"; {record.replaced} more failed and were replaced"
    log.info("evaluation at %d env steps: %s", evaluated.env_steps, said)
    return values
