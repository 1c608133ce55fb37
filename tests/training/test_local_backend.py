from __future__ import annotations

import signal

import pytest

from prelar_ray.roles import RoleId
from prelar_ray.training.backend import Role, by_reference
from prelar_ray.training.local_backend import LocalBackend


class Counter:
    """A role that notes what it was asked."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.closed = log, name, False

    def add(self, a: int, b: int = 0) -> int:
        self.log.append(f"{self.name}.add({a}, {b})")
        return a + b

    def pair(self, a: int) -> tuple[int, str]:
        self.log.append(f"{self.name}.pair({a})")
        return a, str(a)

    def fail(self) -> int:
        self.log.append(f"{self.name}.fail()")
        raise ValueError("no")

    def interrupt(self, times: int) -> str:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return "done"

    def close(self) -> None:
        self.log.append(f"{self.name}.close()")


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def backend() -> LocalBackend:
    return LocalBackend()


def start(backend: LocalBackend, log: list[str], name: str = "one") -> Role[Counter]:
    return backend.start(RoleId("replay"), Counter, log, name)


def test_nothing_runs_before_somebody_waits(backend: LocalBackend, log: list[str]) -> None:
    role = start(backend, log)
    future = role.call(Counter.add, 1, 2)
    assert log == []
    assert backend.get(future) == 3
    assert backend.get(future) == 3
    assert log == ["one.add(1, 2)"]


def test_calls_run_in_order_over_all_roles(backend: LocalBackend, log: list[str]) -> None:
    one, two = start(backend, log, "one"), start(backend, log, "two")
    one.call(Counter.add, 1)
    two.call(Counter.add, 2)
    last = one.call(Counter.add, 3)
    later = two.call(Counter.add, 4)
    assert backend.get(last) == 3
    assert log == ["one.add(1, 0)", "two.add(2, 0)", "one.add(3, 0)"]
    assert backend.get(later) == 4


def test_a_future_as_an_argument_stands_for_its_value(backend: LocalBackend, log: list[str]) -> None:
    one, two = start(backend, log, "one"), start(backend, log, "two")
    first = one.call(Counter.add, 1, 2)
    second = one.call(Counter.add, by_reference(first), 10)
    assert backend.get(two.call(Counter.add, by_reference(first), by_reference(second))) == 16


def test_arguments_may_be_named(backend: LocalBackend, log: list[str]) -> None:
    role = start(backend, log)
    first = role.call(Counter.add, a=1, b=2)
    assert backend.get(role.call(Counter.add, 1, b=by_reference(first))) == 4


def test_a_method_that_returns_a_tuple_can_give_a_future_for_each_part(backend: LocalBackend, log: list[str]) -> None:
    role = start(backend, log)
    number, text = role.call_pair(Counter.pair, 5)
    assert backend.get(role.call(Counter.add, by_reference(number), 1)) == 6
    assert backend.get(text) == "5"
    assert backend.get(role.call(Counter.pair, 7)) == (7, "7")
    assert log.count("one.pair(5)") == 1
    first, second = role.call_each(2, Counter.pair, 9)  # type: ignore[arg-type]
    assert (backend.get(first), backend.get(second)) == (9, "9")


def test_waiting_runs_calls_until_one_of_the_futures_is_done(backend: LocalBackend, log: list[str]) -> None:
    role = start(backend, log)
    role.call(Counter.add, 0)
    futures = [role.call(Counter.add, n) for n in (1, 2, 3)]
    assert backend.wait(futures, timeout=1.0) == futures[:1]
    assert log == ["one.add(0, 0)", "one.add(1, 0)"]
    assert backend.wait(futures[1:], timeout=0.0) == futures[1:2]
    assert backend.wait(futures, timeout=0.0) == futures[:2]


def test_errors_surface_where_the_value_is_wanted(backend: LocalBackend, log: list[str]) -> None:
    role = start(backend, log)
    failing = role.call(Counter.fail)
    after = role.call(Counter.add, 1)
    assert backend.wait([failing], timeout=0.0) == [failing]
    assert backend.get(after) == 1
    with pytest.raises(ValueError, match="no"):
        backend.get(failing)
    depending = role.call(Counter.add, by_reference(failing))
    with pytest.raises(ValueError, match="no"):
        backend.get(depending)
    assert log == ["one.fail()", "one.add(1, 0)"]


def test_an_error_of_a_factory_surfaces_at_once(backend: LocalBackend) -> None:
    with pytest.raises(TypeError):
        backend.start(RoleId("replay"), Counter)


def test_stopping_closes_the_role_and_closing_all_others(backend: LocalBackend, log: list[str]) -> None:
    one, two = start(backend, log, "one"), start(backend, log, "two")
    backend.start(RoleId("evaluator"), dict)
    backend.stop(one)
    assert log == ["one.close()"]
    two.call(Counter.add, 1)
    backend.close()
    backend.close()
    assert log == ["one.close()", "two.close()"]


def test_a_call_is_done_whole_before_ctrl_c_takes_effect(backend: LocalBackend, log: list[str]) -> None:
    role = start(backend, log)
    future, queued = role.call(Counter.interrupt, 1), role.call(Counter.add, 1)
    with pytest.raises(KeyboardInterrupt):
        backend.get(queued)
    assert backend.get(future) == "done"
    assert backend.get(queued) == 1


def test_a_second_ctrl_c_cuts_a_call_off_and_nobody_waits_for_it_forever(backend: LocalBackend, log: list[str]) -> None:
    role = start(backend, log)
    future, queued = role.call(Counter.interrupt, 2), role.call(Counter.add, 1)
    with pytest.raises(KeyboardInterrupt):
        backend.get(future)
    with pytest.raises(KeyboardInterrupt):
        backend.get(future)
    assert backend.get(queued) == 1
