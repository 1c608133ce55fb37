"""Ranks behind one set of calls: whose failure is told, and what is averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from prelar_ray.errors import NonFiniteError, RoleDied
from prelar_ray.roles import RoleId
from prelar_ray.training.learners import LearnerGroup

Outcome = Callable[[], Any]


class RankBackend:
    """A backend on which every rank's answer is given, and comes in a given order."""

    def __init__(self, answers: dict[str, dict[str, Outcome]], slow: Sequence[str] = ()) -> None:
        self.answers, self.slow = answers, slow
        self.calls: list[tuple[str, str, tuple[Any, ...]]] = []

    def rendezvous(self) -> str:
        return "here:1"

    def start(self, role: RoleId) -> Any:
        backend, name, answers = self, str(role), self.answers.get(str(role), {})

        class Rank:
            id = role

            def call(self, method: Callable[..., Any], *arguments: Any) -> Any:
                backend.calls.append((name, method.__name__, arguments))
                return (name, answers.get(method.__name__, lambda: None))

        return Rank()

    def wait(self, futures: Sequence[Any], timeout: float) -> list[Any]:
        return [future for future in futures if future[0] not in self.slow] or list(futures)

    def get(self, future: Any) -> Any:
        return future[1]()


def raising(error: Exception) -> Outcome:
    def outcome() -> Any:
        raise error

    return outcome


def group(backend: Any, ranks: int = 2) -> LearnerGroup[Any, Any]:
    return LearnerGroup(backend, lambda role, rank: backend.start(role), ranks)


def test_ranks_meet_where_the_backend_says() -> None:
    backend = RankBackend({})
    group(backend)
    joined = [(name, arguments) for name, method, arguments in backend.calls if method == "join"]
    assert joined == [("learner-0", ("here:1",)), ("learner-1", ("here:1",))]


def test_one_rank_meets_nobody() -> None:
    backend = RankBackend({})
    alone = group(backend, 1)
    assert backend.calls == []
    assert [str(role.id) for role in alone.roles] == ["learner"]


def test_each_rank_gets_its_rows() -> None:
    backend = RankBackend({})
    learners = group(backend)
    learners.submit([[["a", "c"]], [["b", "d"]]], updates=2)
    assert (learners.calls, learners.in_flight, learners.submitted) == (1, 2, 2)
    assert backend.calls[-2:] == [("learner-0", "update", (["a", "c"],)), ("learner-1", "update", (["b", "d"],))]


@pytest.mark.parametrize(("seconds", "expected"), [(2.0, 1), (0.06, 1), (0.03, 3), (0.001, 16)])
def test_fast_updates_are_asked_for_several_at_once(
    monkeypatch: pytest.MonkeyPatch, seconds: float, expected: int
) -> None:
    clock = [0.0]
    monkeypatch.setattr("prelar_ray.training.learners.time.monotonic", lambda: clock[0])
    learners = group(RankBackend({}), ranks=1)
    assert learners.per_call == 1
    for _ in range(4):
        learners.submit([[["a"]]])
        clock[0] += seconds
        learners.finish()
    assert learners.per_call == expected
    learners.submit([[["a"]]])
    learners.finish()  # an answer that was there already says nothing about the work
    assert learners.per_call == expected


def test_metrics_are_means_over_ranks() -> None:
    backend = RankBackend({f"learner-{rank}": {"metrics": lambda x=rank: {"loss": 2.0 * x}} for rank in range(2)})
    assert group(backend).metrics() == {"loss": 1.0}


def test_a_dead_rank_is_named_even_if_another_failed_first_because_of_it() -> None:
    broken = {"metrics": raising(RuntimeError("Connection closed by peer"))}
    dead = {"metrics": raising(RoleDied(RoleId("learner", 1), "killed"))}
    backend = RankBackend({"learner-0": broken, "learner-1": dead}, slow=["learner-1"])
    with pytest.raises(RoleDied, match="learner-1 died"):
        group(backend).metrics()


def test_a_failure_of_another_kind_stays_what_it_is() -> None:
    broken = {"metrics": raising(RuntimeError("a bug"))}
    with pytest.raises(RuntimeError, match="a bug"):
        group(RankBackend({"learner-0": broken})).metrics()
    bad = {"metrics": raising(NonFiniteError("loss"))}
    with pytest.raises(NonFiniteError):
        group(RankBackend({"learner-1": bad, "learner-0": broken}, slow=["learner-0"])).metrics()
