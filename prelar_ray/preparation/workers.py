"""Processes of this machine that convert."""

from __future__ import annotations

import multiprocessing
import signal
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Final

from prelar_ray.preparation.conversion import Converted, Converter, Finished, Piece
from prelar_ray.preparation.ordered import Task
from prelar_ray.video.processes import ONE_THREAD, inheriting

__all__ = ["ProcessPool"]

DYING_SECONDS: Final = 10.0
"""For a process whose pipe broke to end."""


class ProcessPool:
    """Spawned processes: a fork would share the threads of FFmpeg, which then hang. One that dies is replaced.

    A script that prepares in several processes needs the usual ``if __name__ == "__main__":``.
    """

    def __init__(self, converter: Converter, size: int) -> None:
        self.size = size
        self._converter = converter
        self._workers: list[_Worker] = []
        try:
            for _ in range(size):
                self._workers.append(_Worker(converter))
        except BaseException:
            self.close()
            raise

    def ask(self, number: int, task: Task) -> None:
        """Have an idle process convert a task."""
        worker = next(worker for worker in self._workers if worker.number is None)
        worker.number = number
        with suppress(OSError):  # it died; receiving tells how
            worker.pipe.send(task)

    def receive(self, only: int | None) -> tuple[int, Converted]:
        """See :meth:`prelar_ray.preparation.ordered.Pool.receive`."""
        busy = {worker.pipe: worker for worker in self._workers if worker.number is not None}
        if only is not None:
            busy = {pipe: worker for pipe, worker in busy.items() if worker.number == only}
        (first, *_) = connection.wait(list(busy))
        worker = busy[first]  # type: ignore[index]  # one of those waited for
        number = worker.number
        assert number is not None
        found: Converted
        try:
            found = worker.pipe.recv()
        except (EOFError, OSError):
            found = Finished(0, (), worker.death())
            worker.kill()
            self._workers[self._workers.index(worker)] = _Worker(self._converter)
        if not isinstance(found, Piece):
            worker.number = None
        return number, found

    def close(self) -> None:
        """End the processes at once."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.kill()
        self._workers = []


class _Worker:
    """One process, and the task that it converts."""

    def __init__(self, converter: Converter) -> None:
        context = multiprocessing.get_context("spawn")
        self.number: int | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, converter), name="converter", daemon=True)
        with inheriting(ONE_THREAD):
            self.process.start()
        theirs.close()  # now the pipe ends with the process

    def death(self) -> str:
        """Say how the process ended."""
        self.process.join(DYING_SECONDS)
        status = self.process.exitcode
        how = f"was killed by {signal.Signals(-status).name}" if status and status < 0 else f"left with status {status}"
        return f"the process that read it {how}"

    def kill(self) -> None:
        """End the process and free it."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, converter: Converter) -> None:
    """Convert the tasks that are asked for, until the other end closes."""
    with suppress(EOFError, OSError):
        while True:
            for found in converter.convert(*pipe.recv()):
                pipe.send(found)
