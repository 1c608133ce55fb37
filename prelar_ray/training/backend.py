"""Where roles live: behind these few calls, the same loop drives one process or a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from prelar_ray.interrupts import interrupts_deferred

__all__ = ["Backend", "Future", "LocalBackend", "Role"]


class Future(Protocol):
    """Result of a call that may not have run yet. Passed as an argument, it stands for its value."""


class Role(Protocol):
    """A collector, replay, learner or evaluator somewhere. Its calls run one after another, in order."""

    name: str

    def call(self, method: str, *args: Any, returns: int = 1) -> Any:
        """Ask for ``method(*args)``; returns one future, or a list of them where the method returns a tuple."""


class Backend(Protocol):
    """Starts roles and waits for them."""

    parallel: bool
    """Whether roles work while nobody waits for them."""

    def start(self, name: str, factory: Callable[..., Any], *args: Any) -> Role:
        """Start ``factory(*args)`` as a role."""

    def wait(self, futures: Sequence[Any], timeout: float) -> list[Any]:
        """Return those futures that are done, at least one unless ``timeout`` seconds pass."""

    def get(self, future: Any) -> Any:
        """Return a future's value, or raise what its call raised.

        Raises:
            RoleDied: the role's process ended; names it.
        """

    def memory(self) -> dict[str, float]:
        """Metrics of the group ``memory``: of every kind of role, in processes of their own, as far as known."""

    def report(self, values: Mapping[str, float]) -> None:
        """Show metrics to those who watch the cluster."""

    def stop(self, role: Role) -> None:
        """End a role."""

    def stop_all(self) -> None:
        """End all roles; others may be started then."""

    def close(self) -> None:
        """End all roles, and what they live in."""


class LocalBackend:
    """All roles in this process; calls run one after another when somebody waits for them."""

    parallel = False

    def __init__(self) -> None:
        self._queue: deque[_LocalCall] = deque()
        self._roles: list[_LocalRole] = []

    def start(self, name: str, factory: Callable[..., Any], *args: Any) -> Role:
        """Construct the role at once."""
        role = _LocalRole(name, factory(*args), self._queue)
        self._roles.append(role)
        return role

    def wait(self, futures: Sequence[Any], timeout: float) -> list[Any]:
        """Run queued calls in order until one of ``futures`` is done; ``timeout`` is not needed."""
        while not any(future.done for future in futures):
            self._run_next()
        return [future for future in futures if future.done]

    def get(self, future: Any) -> Any:
        """Run queued calls in order up to the one that ``future`` belongs to."""
        while not future.done:
            self._run_next()
        return future.value()

    def memory(self) -> dict[str, float]:
        """Empty: roles have no processes of their own."""
        return {}

    def report(self, values: Mapping[str, float]) -> None:
        """Nobody watches."""

    def stop(self, role: Role) -> None:
        """Close the role's object."""
        assert isinstance(role, _LocalRole)
        self._roles.remove(role)
        role.close()

    def stop_all(self) -> None:
        """Close all roles' objects; calls that nobody waited for are dropped."""
        self._queue.clear()
        while self._roles:
            self._roles.pop().close()

    close = stop_all

    def _run_next(self) -> None:
        with interrupts_deferred():
            self._queue.popleft().run()


class _LocalCall:
    """One call; its futures share its result."""

    def __init__(self, method: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.method, self.args = method, args
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            args = [arg.value() if isinstance(arg, _LocalFuture) else arg for arg in self.args]
            self.result = self.method(*args)
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):  # a second Ctrl-C
                raise
        finally:
            self.done = True
            self.args = ()  # results of earlier calls may be large


class _LocalFuture:
    def __init__(self, call: _LocalCall, index: int | None) -> None:
        self.call, self.index = call, index

    @property
    def done(self) -> bool:
        return self.call.done

    def value(self) -> Any:
        if self.call.error:
            raise self.call.error
        return self.call.result if self.index is None else self.call.result[self.index]


class _LocalRole:
    def __init__(self, name: str, target: Any, queue: deque[_LocalCall]) -> None:
        self.name, self.target, self.queue = name, target, queue

    def call(self, method: str, *args: Any, returns: int = 1) -> Any:
        call = _LocalCall(getattr(self.target, method), args)
        self.queue.append(call)
        if returns == 1:
            return _LocalFuture(call, None)
        return [_LocalFuture(call, i) for i in range(returns)]

    def close(self) -> None:
        if hasattr(self.target, "close"):
            self.target.close()
