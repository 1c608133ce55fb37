"""Preparing on a Ray cluster: items are tasks, and this process writes them in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import ray
from ray import exceptions

from prelar_ray.config import RunConfig
from prelar_ray.distributed.ray_backend import cluster_nodes, connected
from prelar_ray.preparation.conversion import Converted, Converter, Finished, Piece
from prelar_ray.preparation.ordered import Convert, Task, convert_in
from prelar_ray.preparation.prepare import Preparation, Summary, prepare
from prelar_ray.sources.source import Item
from prelar_ray.video.processes import ONE_THREAD

__all__ = ["TaskPool", "prepare_on_ray"]

AHEAD: Final = 2
"""Pieces of an item in the object store before its task waits."""


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
        workers: tasks at once; 0: one for each CPU.
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
        return convert_in(lambda: TaskPool(converter, size), tasks)

    return convert


class TaskPool:
    """Tasks that convert one item each, and wait where this process is behind."""

    def __init__(self, converter: Converter, size: int) -> None:
        self.size = size
        self._shared = ray.put(converter)
        self._running: dict[int, Any] = {}  # generator by number of the task

    def ask(self, number: int, task: Task) -> None:
        """Start a task; it is not tried again, for what ended a process with an item would end the next."""
        self._running[number] = _task.options(
            num_cpus=1,
            max_retries=0,
            num_returns="streaming",
            _generator_backpressure_num_objects=AHEAD,
            runtime_env={"env_vars": dict(ONE_THREAD)},
        ).remote(self._shared, *task)

    def receive(self, only: int | None) -> tuple[int, Converted]:
        """See :meth:`prelar_ray.preparation.ordered.Pool.receive`."""
        running = {generator: number for number, generator in self._running.items() if only in (None, number)}
        generators: list[Any] = list(running)
        (ready,), _ = ray.wait(generators, num_returns=1, fetch_local=False)
        generator: Any = ready
        number = running[generator]
        found: Converted
        try:
            found = ray.get(next(generator))
        except exceptions.RayTaskError:
            raise
        except exceptions.RayError as error:
            found = Finished(0, (), f"its task died: {' '.join(str(error).split())}")
        if not isinstance(found, Piece):
            del self._running[number]
        return number, found

    def close(self) -> None:
        """End the tasks at once."""
        for generator in self._running.values():
            with suppress(exceptions.RayError):
                ray.cancel(generator, force=True)
        self._running = {}


@ray.remote
def _task(converter: Converter, source: int, item: Item) -> Iterator[Converted]:
    """Convert an item."""
    yield from converter.convert(source, item)
