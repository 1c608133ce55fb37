"""Several processes convert items ahead of each other; the order of the store and the memory are kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Final, Protocol

from prelar_ray.preparation.conversion import Converted, Converter, Finished, Piece
from prelar_ray.sources.source import Item

__all__ = ["AHEAD_BYTES", "Convert", "Pool", "Task", "convert_here", "convert_in"]

AHEAD_BYTES: Final = 2**28
"""Frames of items ahead of the one that is written, at most; then their processes wait."""

Task = tuple[int, Item]
"""Number of the source, and an item of it."""

Convert = Callable[[Converter, Sequence[Task]], Generator[Converted]]
"""Converts tasks in the order given; closing it early ends what it started."""


class Pool(Protocol):
    """Processes that convert one task at a time each."""

    size: int
    """Number of processes."""

    def ask(self, number: int, task: Task) -> None:
        """Have an idle process convert a task."""

    def receive(self, only: int | None) -> tuple[int, Converted]:
        """Wait for what a process has converted next, of the task of number ``only`` where that is given.

        A process that died is the end of its task, with how it died as its failure.
        """

    def close(self) -> None:
        """End the processes at once."""


def convert_here(converter: Converter, tasks: Sequence[Task]) -> Generator[Converted]:
    """Convert in this process."""
    for source, item in tasks:
        yield from converter.convert(source, item)


def convert_in(
    start: Callable[[], Pool], tasks: Sequence[Task], ahead_bytes: int = AHEAD_BYTES
) -> Generator[Converted]:
    """Convert in the processes that ``start`` starts."""
    waiting: dict[int, deque[Converted]] = {}  # by number of the task, from the one that is written on
    asked = running = held = 0
    pool = start()
    try:
        for written in range(len(tasks)):
            finished = False
            while not finished:
                while asked < len(tasks) and running < pool.size and (asked == written or held < ahead_bytes):
                    pool.ask(asked, tasks[asked])
                    waiting[asked] = deque()
                    asked, running = asked + 1, running + 1
                while not waiting[written]:
                    number, found = pool.receive(None if held < ahead_bytes else written)
                    waiting[number].append(found)
                    held += _bytes(found)
                    if not isinstance(found, Piece):
                        running -= 1
                        break  # its process is idle
                if waiting[written]:
                    found = waiting[written].popleft()
                    held -= _bytes(found)
                    finished = isinstance(found, Finished)
                    yield found
            del waiting[written]
    finally:
        pool.close()


def _bytes(found: Converted) -> int:
    return found.frames.nbytes if isinstance(found, Piece) else 0
