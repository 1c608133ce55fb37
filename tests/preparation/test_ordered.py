"""Conversion in several processes: the order of one, whatever ends first, in bounded memory."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prelar_ray.preparation.conversion import Converted, Finished, Piece
from prelar_ray.preparation.ordered import Task, convert_in
from prelar_ray.sources.source import Item

FRAMES = np.zeros((4, 64, 64, 3), np.uint8)


def stream(number: int, pieces: int) -> Iterator[Converted]:
    for index in range(pieces):
        yield Piece(FRAMES, f"{number}.{index}", None)
    yield Finished(0, (f"{number}",))


class Shuffled:
    """A pool that lets any of its tasks come next, and remembers how far it ran ahead."""

    def __init__(self, size: int, lengths: list[int], seed: int) -> None:
        self.size, self._lengths, self._random = size, lengths, random.Random(seed)
        self._running: dict[int, Iterator[Converted]] = {}
        self.closed = False
        self.most_running = 0

    def ask(self, number: int, task: Task) -> None:
        assert task == (0, Item(f"{number}", ()))
        self._running[number] = stream(number, self._lengths[number])
        self.most_running = max(self.most_running, len(self._running))

    def receive(self, only: int | None) -> tuple[int, Converted]:
        number = self._random.choice(list(self._running)) if only is None else only
        found = next(self._running[number])
        if isinstance(found, Finished):
            del self._running[number]
        return number, found

    def close(self) -> None:
        self.closed = True


def said(found: Converted) -> str:
    return found.name if isinstance(found, Piece) else found.notes[0] if isinstance(found, Finished) else "refused"


@given(
    lengths=st.lists(st.integers(0, 6), max_size=12),
    size=st.integers(1, 4),
    ahead=st.integers(0, 10),
    seed=st.integers(0, 99),
)
def test_the_order_is_that_of_one_process(lengths: list[int], size: int, ahead: int, seed: int) -> None:
    pool = Shuffled(size, lengths, seed)
    tasks = [(0, Item(f"{number}", ())) for number in range(len(lengths))]
    found = list(map(said, convert_in(lambda: pool, tasks, ahead * FRAMES.nbytes)))
    assert found == [said(one) for number, pieces in enumerate(lengths) for one in stream(number, pieces)]
    assert pool.closed
    assert pool.most_running <= size


def test_processes_ahead_of_the_one_that_is_written_wait_when_memory_is_full() -> None:
    class Counted(Shuffled):
        received = 0

        def receive(self, only: int | None) -> tuple[int, Converted]:
            self.received += 1
            # The last of those that run comes first, for as long as the choice is free.
            return super().receive(max(self._running) if only is None else only)

    pool = Counted(2, [50, 50], 0)
    converted = convert_in(lambda: pool, [(0, Item("0", ())), (0, Item("1", ()))], 3 * FRAMES.nbytes)
    assert said(next(converted)) == "0.0"
    assert pool.received == 4  # three ahead, then the one that is written
    converted.close()
    assert pool.closed
