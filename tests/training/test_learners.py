"""Ranks behind one set of calls: whose failure is told, and what is averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from prelar_ray.errors import NonFiniteError, RoleDied
from prelar_ray.training.learners import LearnerGroup

Outcome = Callable[[], Any]


class Ranks:
    """A backend on which every rank's answer is given, and comes in a given order."""

    def __init__(self, answers: dict[str, dict[str, Outcome]], slow: Sequence[str] = ()) -> None:
        self.answers, self.slow = answers, slow
        self.calls: list[tuple[str, str, tuple[Any, ...]]] = []

    def start(self, name: str, factory: Callable[..., Any], *args: Any) -> Any:
        backend, answers = self, self.answers.get(name, {})

        class Role:
            def __init__(self) -> None:
                self.name = name

            def call(self, method: str, *arguments: Any, returns: int = 1) -> Any:
                backend.calls.append((name, method, arguments))
                return (name, answers.get(method, lambda: None))

        return Role()

    def wait(self, futures: Sequence[Any], timeout: float) -> list[Any]:
        return [future for future in futures if future[0] not in self.slow] or list(futures)

    def get(self, future: Any) -> Any:
        return future[1]()


def raising(error: Exception) -> Outcome:
    def outcome() -> Any:
        raise error

    return outcome


def group(backend: Any, ranks: int = 2) -> LearnerGroup:
    return LearnerGroup(backend, ranks, object)


def test_ranks_meet_where_the_first_says() -> None:
    backend = Ranks({"learner-0": {"meeting_point": lambda: "here:1"}})
    group(backend)
    joined = [(name, arguments) for name, method, arguments in backend.calls if method == "join"]
    assert joined == [("learner-0", ("here:1",)), ("learner-1", ("here:1",))]


def test_one_rank_meets_nobody() -> None:
    backend = Ranks({})
    alone = group(backend, 1)
    assert backend.calls == []
    assert [role.name for role in alone.roles] == ["learner"]


def test_each_rank_gets_its_rows() -> None:
    backend = Ranks({})
    group(backend).call_with_rows("update", [["a"], ["b"]])
    assert backend.calls[-2:] == [("learner-0", "update", ("a",)), ("learner-1", "update", ("b",))]


def test_metrics_are_means_over_ranks() -> None:
    backend = Ranks({f"learner-{rank}": {"metrics": lambda x=rank: {"loss": 2.0 * x}} for rank in range(2)})
    assert group(backend).metrics() == {"loss": 1.0}


def test_a_dead_rank_is_named_even_if_another_failed_first_because_of_it() -> None:
    broken = {"metrics": raising(RuntimeError("Connection closed by peer"))}
    dead = {"metrics": raising(RoleDied("learner-1", "killed"))}
    backend = Ranks({"learner-0": broken, "learner-1": dead}, slow=["learner-1"])
    with pytest.raises(RoleDied, match="learner-1 died"):
        group(backend).metrics()


def test_a_failure_of_another_kind_stays_what_it_is() -> None:
    broken = {"metrics": raising(RuntimeError("a bug"))}
    with pytest.raises(RuntimeError, match="a bug"):
        group(Ranks({"learner-0": broken})).metrics()
    bad = {"metrics": raising(NonFiniteError("loss"))}
    with pytest.raises(NonFiniteError):
        group(Ranks({"learner-1": bad, "learner-0": broken}, slow=["learner-0"])).metrics()
