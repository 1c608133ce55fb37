from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prelar_ray.training.every import Every


def due_at(interval: int, counts: list[int], start: int = 0) -> list[int]:
    every = Every(interval, start)
    return [count for count in counts if every.take(count)]


def test_something_is_due_at_every_multiple_of_its_interval() -> None:
    assert due_at(3, list(range(1, 11))) == [3, 6, 9]


def test_a_multiple_that_was_jumped_over_is_due_once() -> None:
    assert due_at(10, [7, 14, 21, 28, 60, 61]) == [14, 21, 60]


def test_what_was_done_in_between_does_not_move_the_grid() -> None:
    every = Every(10)
    every.done(14)
    assert not every.due(19)
    assert every.due(20)


@given(st.integers(1, 20), st.lists(st.integers(1, 7), max_size=60), st.integers(0, 59))
def test_a_resumed_run_does_the_same_at_the_same_counts(interval: int, steps: list[int], cut: int) -> None:
    counts = [sum(steps[: n + 1]) for n in range(len(steps))]
    whole = due_at(interval, counts)
    start = counts[cut] if cut < len(counts) else 0
    resumed = due_at(interval, [count for count in counts if count > start], start)
    assert resumed == [count for count in whole if count > start]
