"""All roles in this process: the loops without a cluster, for one machine, tests and a debugger."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.roles import RoleId
from prelar_ray.training.backend import Future, Role

__all__ = ["LocalBackend"]

A = TypeVar("A")
B = TypeVar("B")
F = TypeVar("F", bound=Future[Any])
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class LocalBackend:
    """Calls run one after another, in the order in which they were asked for, when somebody waits for one."""

    parallel = False

    def __init__(self) -> None:
        self._queue: deque[_Call] = deque()
        self._roles: list[_LocalRole[Any]] = []

    def start(self, role: RoleId, make: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Role[R]:
        """Construct the role at once."""
        started = _LocalRole(role, make(*args, **kwargs), self._queue)
        self._roles.append(started)
        return started

    def wait(self, futures: Sequence[F], timeout: float) -> list[F]:
        """Run queued calls in order until one of ``futures`` is done; ``timeout`` is not needed."""
        while not any(_local(future).done for future in futures):
            self._run_next()
        return [future for future in futures if _local(future).done]

    def get(self, future: Future[T]) -> T:
        """Run queued calls in order up to the one that ``future`` belongs to."""
        local = _local(future)
        while not local.done:
            self._run_next()
        return local.value()

    def rendezvous(self) -> str:
        """Never called: the configuration refuses several learner ranks in one process."""
        raise AssertionError("ranks of one process cannot meet")

    def memory(self) -> dict[str, float]:
        """Empty: roles have no processes of their own."""
        return {}

    def report(self, values: Mapping[str, float]) -> None:
        """Nobody watches."""

    def stop(self, role: Role[Any]) -> None:
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


class _Call:
    """One call; its futures share its result."""

    def __init__(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.method, self.args, self.kwargs = method, args, kwargs
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            kwargs = {name: _value(arg) for name, arg in self.kwargs.items()}
            self.result = self.method(*map(_value, self.args), **kwargs)
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):  # a second Ctrl-C
                raise
        finally:
            self.done = True
            self.args, self.kwargs = (), {}  # results of earlier calls may be large


class _LocalFuture(Future[T]):
    __slots__ = ("call", "index")

    def __init__(self, call: _Call, index: int | None = None) -> None:
        self.call, self.index = call, index

    @property
    def done(self) -> bool:
        return self.call.done

    def value(self) -> T:
        if self.call.error:
            raise self.call.error
        value: T = self.call.result if self.index is None else self.call.result[self.index]
        return value


def _value(argument: Any) -> Any:
    return argument.value() if isinstance(argument, _LocalFuture) else argument


def _local(future: Future[T]) -> _LocalFuture[T]:
    assert isinstance(future, _LocalFuture), "a future of another backend"
    return future


class _LocalRole(Role[R], Generic[R]):
    def __init__(self, role: RoleId, target: R, queue: deque[_Call]) -> None:
        self.id, self.target, self._queue = role, target, queue

    def call(self, method: Callable[Concatenate[R, P], T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return _LocalFuture(self._enqueue(method, args, kwargs))

    def call_pair(
        self, method: Callable[Concatenate[R, P], tuple[A, B]], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[Future[A], Future[B]]:
        call = self._enqueue(method, args, kwargs)
        return _LocalFuture(call, 0), _LocalFuture(call, 1)

    def call_each(
        self, count: int, method: Callable[Concatenate[R, P], tuple[T, ...]], *args: P.args, **kwargs: P.kwargs
    ) -> list[Future[T]]:
        call = self._enqueue(method, args, kwargs)
        return [_LocalFuture(call, index) for index in range(count)]

    def _enqueue(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        call = _Call(getattr(self.target, method.__name__), args, kwargs)  # by name: a subclass may have its own
        self._queue.append(call)
        return call

    def close(self) -> None:
        close = getattr(self.target, "close", None)
        if close:
            close()
