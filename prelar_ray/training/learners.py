"""The learner ranks of a run as one: a call goes to every rank, and its outcome is that of all."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

from prelar_ray.acting.policy import PolicyWeights
from prelar_ray.action_space import ActionSpace
from prelar_ray.config import RunConfig
from prelar_ray.errors import PrelarError, RoleDied
from prelar_ray.learning.prediction import Prediction
from prelar_ray.roles import RoleId
from prelar_ray.training.backend import Backend, Future, Role, by_reference
from prelar_ray.training.learner_role import FinetuneLearnerRole, LearnerRole, PretrainLearnerRole, Rows
from prelar_ray.types import Frames, SequenceBatch

__all__ = ["FinetuneLearners", "LearnerGroup", "PretrainLearners", "Published"]

POLL_SECONDS = 1.0
AFTERMATH_SECONDS = 10.0
"""How long to look for the rank that died once another one failed, as those that wait for it do."""

P = ParamSpec("P")
R = TypeVar("R", bound=LearnerRole[Any, Any])
Part = TypeVar("Part")
"""What a rank's share of a batch is made of."""
Parts = Sequence[Part]
"""One for each of successive updates."""
T = TypeVar("T")

CALL_SECONDS = 0.1
"""Work of a call that asks for several updates: longer ones would delay weights and interrupts."""
MOST_UPDATES = 16
"""Most updates of a call; their batches are in memory together."""


class Call(NamedTuple):
    """Updates in flight."""

    futures: list[Future[int]]
    """One for every rank."""
    updates: int


class Published(NamedTuple):
    """Weights of the policy, under the number of updates behind them."""

    version: int
    weights: Future[PolicyWeights]


class LearnerGroup(Generic[R, Part]):
    """Ranks behind one set of calls, and the updates in flight to them; the first rank writes checkpoints."""

    def __init__(self, backend: Backend, start: Callable[[RoleId, int], Role[R]], ranks: int) -> None:
        """Start every rank with ``start(id, rank)``, and bring them together.

        Raises:
            RoleDied: one of them died meanwhile.
        """
        self.backend = backend
        self.roles = [start(role, rank) for rank, role in enumerate(RoleId.several("learner", ranks))]
        self.updates = 0
        """Updates done."""
        self._in_flight: list[Call] = []
        self._finished = time.monotonic()
        self._seconds = deque([CALL_SECONDS], maxlen=4)
        """Of an update, as seen from here, in the last calls."""
        if ranks > 1:
            address = backend.rendezvous()
            self._get([role.call(LearnerRole.join, address) for role in self.roles])

    # Updates

    def submit(self, shares: Sequence[Sequence[Future[Parts[Part]] | Parts[Part]]], updates: int = 1) -> None:
        """Ask for successive updates; each rank gets the parts of its shares of the batches."""
        parts = [[by_reference(x) if isinstance(x, Future) else x for x in share] for share in shares]
        futures = [role.call(LearnerRole.update, *share) for role, share in zip(self.roles, parts, strict=True)]
        self._in_flight.append(Call(futures, updates))

    def update(self, shares: Sequence[Sequence[Future[Parts[Part]] | Parts[Part]]]) -> None:
        """Make one update and wait for it."""
        self.submit(shares)
        self.finish()

    @property
    def per_call(self) -> int:
        """How many updates to ask for at once, so that messages cost little of a fast learner's time."""
        return max(1, min(MOST_UPDATES, int(CALL_SECONDS / max(self._seconds))))

    @property
    def calls(self) -> int:
        """Calls in flight."""
        return len(self._in_flight)

    @property
    def in_flight(self) -> int:
        """Updates asked for and not done yet."""
        return sum(call.updates for call in self._in_flight)

    @property
    def submitted(self) -> int:
        """Updates done and in flight."""
        return self.updates + self.in_flight

    @property
    def futures(self) -> list[Future[int]]:
        """Of the updates in flight."""
        return [future for call in self._in_flight for future in call.futures]

    def take(self, done: Collection[Future[Any]]) -> int:
        """Finish the calls of which some rank is ``done``; returns how many updates they made."""
        return self._finish([call for call in self._in_flight if any(future in done for future in call.futures)])

    def finish(self) -> int:
        """Wait for all updates in flight; returns how many there were."""
        return self._finish(list(self._in_flight))

    def _finish(self, calls: Sequence[Call]) -> int:
        for call in calls:
            self.updates = self._get(call.futures)[0]
            self._in_flight.remove(call)  # not before: an interrupt meanwhile finds it, and counts it
        updates = sum(call.updates for call in calls)
        if updates:
            now = time.monotonic()
            self._seconds.append(max(1e-6, (now - self._finished) / updates))
            self._finished = now
        return updates

    # State

    def restore(self, path: Path, update: int) -> None:
        """Continue from a checkpoint, which is of ``update``, on every rank."""
        self._get([role.call(LearnerRole.restore, path) for role in self.roles])
        self.updates = update

    def metrics(self) -> dict[str, float]:
        """Means over ranks since the last call.

        Raises:
            NonFiniteError: one of them was NaN or infinite.
        """
        found = self._get([role.call(LearnerRole.metrics) for role in self.roles])
        return {name: sum(values[name] for values in found) / len(found) for name in found[0]}

    def save(self, counters: dict[str, Any]) -> int:
        """Begin to write a checkpoint and return its update; every rank adds what it alone knows.

        Raises:
            NonFiniteError, RanksDiverged: the parameters are not worth saving; nothing is written.
            CheckpointError: the one before could not be written.
        """
        return self._get([role.call(LearnerRole.save, counters) for role in self.roles])[0]

    def saved(self) -> None:
        """Wait until the checkpoint begun last is on disk.

        Raises:
            CheckpointError: it cannot be written; those before are intact.
        """
        self.first(LearnerRole.saved)

    def first(self, method: Callable[Concatenate[R, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Ask the first rank alone, and wait for its answer."""
        return self._get([self.roles[0].call(method, *args, **kwargs)])[0]

    def _get(self, futures: Sequence[Future[T]]) -> list[T]:
        """Return the values of one call's futures.

        Raises:
            RoleDied: a rank's process ended; what the others raised because of it is left aside.
        """
        pending = list(futures)
        while pending:
            for future in self.backend.wait(pending, POLL_SECONDS):
                pending.remove(future)
                try:
                    self.backend.get(future)
                except PrelarError:
                    raise
                except Exception as error:
                    raise self._death(pending) or error from error
        return [self.backend.get(future) for future in futures]

    def _death(self, pending: Sequence[Future[Any]]) -> RoleDied | None:
        for future in self.backend.wait(pending, AFTERMATH_SECONDS) if pending else ():
            try:
                self.backend.get(future)
            except RoleDied as death:
                return death
            except Exception:  # it failed because of the same death
                continue
        return None


class PretrainLearners(LearnerGroup[PretrainLearnerRole, Frames]):
    """Ranks that learn from clips."""

    def __init__(self, backend: Backend, config: RunConfig, checkpoints: Path) -> None:
        super().__init__(
            backend,
            lambda role, rank: backend.start(role, PretrainLearnerRole, config, checkpoints, rank),
            config.learner.ranks,
        )

    def validate(self, clips: Frames) -> Mapping[str, float]:
        """Measure the losses of ``clips`` on the first rank."""
        return self.first(PretrainLearnerRole.validate, clips)

    def predict(self, clip: Frames) -> Prediction:
        """Reconstruct and predict a clip, uint8 ``(T, Hpx, Wpx, C)``."""
        return self.first(PretrainLearnerRole.predict, clip)


class FinetuneLearners(LearnerGroup[FinetuneLearnerRole, Rows]):
    """Ranks that learn from experience, and the weights that they publish."""

    published: Published
    """What collectors act with; set by :meth:`publish`."""

    def __init__(
        self,
        backend: Backend,
        config: RunConfig,
        actions: ActionSpace | int,
        checkpoints: Path,
        terminates: bool = False,
    ) -> None:
        super().__init__(
            backend,
            lambda role, rank: backend.start(role, FinetuneLearnerRole, config, actions, checkpoints, rank, terminates),
            config.learner.ranks,
        )

    def initialise(self, path: Path) -> None:
        """Take over a pre-training checkpoint on every rank."""
        self._get([role.call(FinetuneLearnerRole.initialise, path) for role in self.roles])

    def publish(self) -> None:
        """Ask for the weights after all updates submitted so far; collectors get them by reference."""
        self.published = Published(self.submitted, self.roles[0].call(FinetuneLearnerRole.policy_weights))

    def predict(self, batch: Future[SequenceBatch | None]) -> Prediction:
        """Reconstruct and predict a segment."""
        return self.first(FinetuneLearnerRole.predict, by_reference(batch))
