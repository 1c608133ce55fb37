"""What the training loops need of the place where roles run: behind these calls, one process or a cluster.

A role is a plain object in some process. Its methods are called through a :class:`Role`, which returns a
:class:`Future`::

    collector = backend.start(RoleId("collector", 0), Collector, config, 0, [0, 0])
    summary, episodes = collector.call_pair(Collector.collect, 50, True, -1, None)
    held = shard.call(ReplayShard.insert, by_reference(episodes))
    backend.get(held)

Everything is typed: the arguments are those of the method, and ``get`` returns what the method returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

from prelar_ray.roles import RoleId

__all__ = ["Backend", "Future", "Role", "by_reference"]

A = TypeVar("A")
B = TypeVar("B")
F = TypeVar("F", bound="Future[Any]")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Future(Generic[T_co]):
    """Result of a call that may not have run yet."""

    __slots__ = ()


def by_reference(future: Future[T]) -> T:
    """Pass a future as an argument of a call, which gets its value; the value does not travel through this process."""
    return cast("T", future)


class Role(ABC, Generic[R]):
    """An object of class ``R`` in some process. Its calls run one after another, in order."""

    id: RoleId

    @abstractmethod
    def call(self, method: Callable[Concatenate[R, P], T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Ask for ``method(object, *args)``, for example ``call(Evaluator.evaluate, weights, 10)``."""

    @abstractmethod
    def call_pair(
        self, method: Callable[Concatenate[R, P], tuple[A, B]], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[Future[A], Future[B]]:
        """Ask for a method that returns a pair; each part has a future of its own."""

    @abstractmethod
    def call_each(
        self, count: int, method: Callable[Concatenate[R, P], tuple[T, ...]], *args: P.args, **kwargs: P.kwargs
    ) -> list[Future[T]]:
        """Ask for a method that returns ``count`` parts, at least two; each has a future of its own."""


class Backend(Protocol):
    """Starts roles and waits for them."""

    parallel: bool
    """Whether roles run while nobody waits for them."""

    def start(self, role: RoleId, make: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Role[R]:
        """Start ``make(*args)``, a class, as a role."""

    def wait(self, futures: Sequence[F], timeout: float) -> list[F]:
        """Return those futures that are done, at least one unless ``timeout`` seconds pass."""

    def get(self, future: Future[T]) -> T:
        """Return a future's value, or raise what its call raised.

        Raises:
            RoleDied: the role's process ended; names it.
        """

    def rendezvous(self) -> str:
        """Return an address, ``host:port``, at which learner ranks can meet."""

    def memory(self) -> dict[str, float]:
        """Metrics of the group ``memory``: of every kind of role, in processes of their own, as far as known."""

    def report(self, values: Mapping[str, float]) -> None:
        """Show metrics to those who watch the cluster."""

    def stop(self, role: Role[Any]) -> None:
        """End a role."""

    def stop_all(self) -> None:
        """End all roles; others may be started then."""

    def close(self) -> None:
        """End all roles, and what they run in."""
