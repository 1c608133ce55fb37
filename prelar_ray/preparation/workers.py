"""Processes of this machine that convert."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from queue import Queue
from typing import Final

from prelar_ray.preparation.conversion import Converted, Converter, Finished, Piece
from prelar_ray.preparation.ordered import Task
from prelar_ray.video.processes import ONE_THREAD, inheriting
from prelar_ray.wording import how_it_ended

__all__ = ["ConverterPool"]

DYING_SECONDS: Final = 10.0
"""For a process whose pipe broke to end."""

TASKS: Final = 2
"""Of a process: while the one it converts is received and written, it can begin the next."""

UNSENT: Final = 1
"""Pieces that a process holds while this one is writing a shard; each may be 120 MB."""


class ConverterPool:
    """Spawned processes: a fork would share the threads of FFmpeg, which then hang. One that dies is replaced.

    A script that prepares in several processes needs the usual ``if __name__ == "__main__":``.
    """

    def __init__(self, converter: Converter, processes: int) -> None:
        self.size = processes * TASKS
        self._converter = converter
        self._workers: list[_Worker] = []
        try:
            for _ in range(processes):
                self._workers.append(_Worker(converter))
        except BaseException:
            self.close()
            raise

    def ask(self, number: int, task: Task) -> None:
        """Have the process with fewest tasks convert one, after those that it has."""
        min(self._workers, key=lambda worker: len(worker.tasks)).ask(number, task)

    def receive(self, only: int | None) -> tuple[int, Converted]:
        """See :meth:`prelar_ray.preparation.ordered.Pool.receive`.

        Tasks are asked for in their order, so the first that is not finished is the first of its process.
        """
        busy = {worker.pipe: worker for worker in self._workers if worker.tasks and only in (None, worker.tasks[0][0])}
        (first, *_) = connection.wait(list(busy))
        worker = busy[first]  # type: ignore[index]  # one of those waited for
        number = worker.tasks[0][0]
        found: Converted
        try:
            found = worker.pipe.recv()
        except (EOFError, OSError):
            found = Finished(0, (), worker.death())
            self._replace(worker)
        if not isinstance(found, Piece):
            worker.tasks.popleft()
        return number, found

    def close(self) -> None:
        """End the processes at once."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def _replace(self, worker: _Worker) -> None:
        """Start a process in place of one that died of its first task, with its other tasks."""
        worker.kill()
        other = self._workers[self._workers.index(worker)] = _Worker(self._converter)
        for number, task in list(worker.tasks)[1:]:
            other.ask(number, task)


class _Worker:
    """One process, and the tasks that it has, by number."""

    def __init__(self, converter: Converter) -> None:
        context = multiprocessing.get_context("spawn")
        self.tasks: deque[tuple[int, Task]] = deque()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, converter), name="converter", daemon=True)
        with inheriting(ONE_THREAD):
            self.process.start()
        theirs.close()  # now the pipe ends with the process

    def ask(self, number: int, task: Task) -> None:
        """Have it convert a task."""
        self.tasks.append((number, task))
        with suppress(OSError):  # it died; receiving tells how
            self.pipe.send(task)

    def death(self) -> str:
        """Say how the process ended."""
        self.process.join(DYING_SECONDS)
        status = self.process.exitcode
        how = how_it_ended(status)
        return (
            f"the process that read it {how}; where memory ran out, fewer --workers or a lower --max-frames need less"
        )

    def kill(self) -> None:
        """End the process and free it."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, converter: Converter) -> None:
    """Convert the tasks that are asked for, until the other end closes."""
    found: Queue[Converted] = Queue(UNSENT)
    threading.Thread(target=_send, args=(pipe, found), daemon=True).start()
    while True:
        try:
            source, item = pipe.recv()
        except (EOFError, OSError):
            return
        for one in converter.convert(source, item):
            found.put(one)


def _send(pipe: Connection, found: Queue[Converted]) -> None:
    """Send what is found beside the conversion; end the process if the other end closed, for nobody takes the rest."""
    try:
        while True:
            pipe.send(found.get())
    except OSError:
        os._exit(0)  # the main thread may wait for room in the queue, for ever
