"""The learner ranks of a run as one: a call goes to every rank, and its outcome is that of all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

from prelar_ray.acting.policy import PolicyWeights
from prelar_ray.config import RunConfig
from prelar_ray.errors import PrelarError, RoleDied
from prelar_ray.learning.prediction import Prediction
from prelar_ray.roles import RoleId
from prelar_ray.training.backend import Backend, Future, Role, by_reference
from prelar_ray.training.learner_role import FinetuneLearnerRole, LearnerRole, PretrainLearnerRole
from prelar_ray.types import Frames, SequenceBatch

__all__ = ["FinetuneLearners", "LearnerGroup", "PretrainLearners", "Published"]

POLL_SECONDS = 1.0
AFTERMATH_SECONDS = 10.0
"""How long to look for the rank that died once another one failed, as those that wait for it do."""

P = ParamSpec("P")
R = TypeVar("R", bound=LearnerRole[Any, Any])
Part = TypeVar("Part")
"""What a rank's share of a batch is made of."""
T = TypeVar("T")

Update = list[Future[int]]
"""An update in flight: a future for every rank."""


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
        self._in_flight: list[Update] = []
        if ranks > 1:
            address = backend.rendezvous()
            self._get([role.call(LearnerRole.join, address) for role in self.roles])

    # Updates

    def submit(self, shares: Sequence[Sequence[Future[Part] | Part]]) -> None:
        """Ask for an update; each rank gets the parts of its share of the batch."""
        parts = [[by_reference(x) if isinstance(x, Future) else x for x in share] for share in shares]
        self._in_flight.append(
            [role.call(LearnerRole.update, *share) for role, share in zip(self.roles, parts, strict=True)]
        )

    def update(self, shares: Sequence[Sequence[Future[Part] | Part]]) -> None:
        """Make one update and wait for it."""
        self.submit(shares)
        self.finish()

    @property
    def in_flight(self) -> int:
        """Updates asked for and not done yet."""
        return len(self._in_flight)

    @property
    def submitted(self) -> int:
        """Updates done and in flight."""
        return self.updates + len(self._in_flight)

    @property
    def futures(self) -> list[Future[int]]:
        """Of the updates in flight."""
        return [future for update in self._in_flight for future in update]

    def take(self, done: Collection[Future[Any]]) -> Iterator[int]:
        """Finish the updates of which some rank is ``done``; yields, after each, how many there were so far."""
        for update in [update for update in self._in_flight if any(future in done for future in update)]:
            self._finish(update)
            yield self.updates

    def finish(self) -> int:
        """Wait for all updates in flight; returns how many there were."""
        waiting = list(self._in_flight)
        for update in waiting:
            self._finish(update)
        return len(waiting)

    def _finish(self, update: Update) -> None:
        self.updates = self._get(update)[0]
        self._in_flight.remove(update)  # not before: an interrupt meanwhile finds it, and counts it

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


class FinetuneLearners(LearnerGroup[FinetuneLearnerRole, SequenceBatch | None]):
    """Ranks that learn from experience, and the weights that they publish."""

    published: Published
    """What collectors act with; set by :meth:`publish`."""

    def __init__(self, backend: Backend, config: RunConfig, action: int, checkpoints: Path) -> None:
        super().__init__(
            backend,
            lambda role, rank: backend.start(role, FinetuneLearnerRole, config, action, checkpoints, rank),
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
