"""Preparing on a Ray cluster: actors convert items, and this process writes them in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import ray
from ray import exceptions

from prelar_ray.config import RunConfig
from prelar_ray.distributed.connection import connected
from prelar_ray.distributed.ray_backend import cluster_nodes
from prelar_ray.errors import ResourceError
from prelar_ray.preparation.conversion import Converted, Converter, Finished, Piece
from prelar_ray.preparation.ordered import Convert, Task, convert_in
from prelar_ray.preparation.prepare import Preparation, Summary, prepare
from prelar_ray.sources.source import Item
from prelar_ray.video.processes import ONE_THREAD

__all__ = ["ActorPool", "prepare_on_ray"]

AHEAD: Final = 2
"""Pieces of an item in the object store before its actor waits."""

RUNTIME: Final = {"env_vars": dict(ONE_THREAD)}
"""Of an actor's process."""


def prepare_on_ray(
    preparation: Preparation,
    out: Path,
    address: str,
    workers: int,
    resume: bool,
    on_item: Callable[[int, int], None],
) -> Summary:
    """Prepare on the cluster at ``address``, whose nodes see the sources at the same paths.

    Args:
        workers: actors, a CPU each; 0: one for each CPU.
        preparation, out, resume, on_item: see :func:`prelar_ray.preparation.prepare.prepare`.

    Raises:
        ResourceError: no cluster at that address.
    """
    with connected(RunConfig(cluster=address)):
        return prepare(preparation, out, _convert_with(workers), resume, on_item)


def _convert_with(workers: int) -> Convert:
    def convert(converter: Converter, tasks: Sequence[Task]) -> Generator[Converted]:
        cpus = max(1, int(sum(node.cpus for node in cluster_nodes())))
        size = max(1, min(workers or cpus, len(tasks)))
        return convert_in(lambda: ActorPool(converter, size), tasks)

    return convert


class ActorPool:
    """Actors that convert one item at a time, and wait where this process is behind.

    An item is given to an actor that runs, in the order of the items, so the one that is written next is never behind
    others however few CPUs are free.
    """

    def __init__(self, converter: Converter, size: int) -> None:
        self.size = size
        self._converter = ray.put(converter)
        self._starting: dict[Any, Any] = {}  # actor by what it returns once it runs
        self._idle: list[Any] = []
        self._pending: deque[tuple[int, Task]] = deque()
        self._running: dict[int, tuple[Any, Any]] = {}  # generator and actor by number of the task
        for _ in range(size):
            self._start()

    def ask(self, number: int, task: Task) -> None:
        """Convert a task once an actor is idle."""
        self._pending.append((number, task))

    def receive(self, only: int | None) -> tuple[int, Converted]:
        """See :meth:`prelar_ray.preparation.ordered.Pool.receive`.

        Raises:
            ResourceError: an actor could not start.
        """
        while True:
            self._assign()
            running = {pair[0]: number for number, pair in self._running.items() if only in (None, number)}
            either: list[Any] = [*running, *self._starting]
            (ready,), _ = ray.wait(either, num_returns=1, fetch_local=False)
            if ready not in self._starting:
                return self._take(running[ready])
            try:
                ray.get(ready)
            except exceptions.RayError as error:
                raise ResourceError(f"a converter could not start: {' '.join(str(error).split())}") from error
            self._idle.append(self._starting.pop(ready))

    def close(self) -> None:
        """End the actors at once."""
        for actor in (*self._starting.values(), *self._idle, *(actor for _, actor in self._running.values())):
            with suppress(exceptions.RayError):
                ray.kill(actor)
        self._starting, self._idle, self._running = {}, [], {}

    def _start(self) -> None:
        remote: Any = ray.remote(num_cpus=1, max_restarts=0, runtime_env=RUNTIME)(_Converting)
        actor = remote.remote(self._converter)
        self._starting[actor.__ray_ready__.remote()] = actor

    def _assign(self) -> None:
        while self._idle and self._pending:
            actor = self._idle.pop()
            number, task = self._pending.popleft()
            stream = actor.convert.options(num_returns="streaming", _generator_backpressure_num_objects=AHEAD)
            self._running[number] = stream.remote(*task), actor

    def _take(self, number: int) -> tuple[int, Converted]:
        """Receive what a running task has converted next."""
        generator, actor = self._running[number]
        found: Converted
        try:
            found = ray.get(next(generator))
        except exceptions.RayTaskError:
            raise
        except exceptions.RayError as error:
            found = Finished(0, (), f"its process died: {' '.join(str(error).split())}")
            del self._running[number]
            self._start()
            return number, found
        if not isinstance(found, Piece):
            del self._running[number]
            self._idle.append(actor)
        return number, found


class _Converting:
    """A converter's process."""

    def __init__(self, converter: Converter) -> None:
        self._converter = converter

    def convert(self, source: int, item: Item) -> Iterator[Converted]:
        """Convert an item."""
        yield from self._converter.convert(source, item)
