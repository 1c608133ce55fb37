"""Recording on a Ray cluster: episodes are tasks, and this process writes them in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import exceptions

from prelar_ray.config import RunConfig
from prelar_ray.distributed.connection import connected
from prelar_ray.distributed.ray_backend import cluster_nodes
from prelar_ray.envs.egl_devices import TURN
from prelar_ray.errors import EnvironmentFailure, PrelarError
from prelar_ray.video.episodes import EpisodeId, EpisodeRoller, RecordedEpisode, episode_name
from prelar_ray.video.processes import ONE_THREAD
from prelar_ray.video.recorder import RecordSummary, record
from prelar_ray.video.rolling import in_order, worker_count

__all__ = ["TaskPool", "record_on_ray", "roll_on_ray"]


def record_on_ray(config: RunConfig, path: Path, on_frames: Callable[[int], None]) -> RecordSummary:
    """Record on the cluster that the configuration names; see :func:`prelar_ray.video.recorder.record`.

    Raises:
        ResourceError: no cluster at that address.
    """
    with connected(config):
        return record(config, path, on_frames, roll_on_ray)


def roll_on_ray(
    config: RunConfig, episodes: Sequence[EpisodeId], on_frames: Callable[[int], None]
) -> Generator[RecordedEpisode]:
    """Roll in tasks of the Ray that this process is connected to, one CPU each."""
    workers = worker_count(config, max(1, int(sum(node.cpus for node in cluster_nodes()))))
    return in_order(lambda: TaskPool(config, workers), episodes, on_frames)


class TaskPool:
    """Tasks that roll one episode each; a process of Ray keeps its environment from one to the next."""

    def __init__(self, config: RunConfig, size: int) -> None:
        self.size = size
        self._config = config
        self._shared = ray.put(config)
        self._running: dict[Any, tuple[int, EpisodeId]] = {}  # by reference: turn and episode

    def ask(self, episode: EpisodeId) -> None:
        """Start a task."""
        turn = min(set(range(self.size)) - {turn for turn, _ in self._running.values()})
        # No second try: what ended a process in an episode would end the next.
        options = {"num_cpus": 1, "max_retries": 0, "runtime_env": {"env_vars": {**ONE_THREAD, TURN: str(turn)}}}
        self._running[_task.options(**options).remote(self._shared, episode)] = turn, episode

    def receive(self) -> tuple[EpisodeId, RecordedEpisode | PrelarError]:
        """Wait for an episode that is done, whichever is the first, or return why it failed."""
        (reference,), _ = ray.wait(list(self._running), num_returns=1)
        _, episode = self._running.pop(reference)
        try:
            recorded: RecordedEpisode = ray.get(reference)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, PrelarError):
                return episode, error.cause
            raise
        except exceptions.RayError as error:
            reason = " ".join(str(error).split())
            return episode, EnvironmentFailure(f"{episode_name(self._config, episode)}: its task died: {reason}")
        return episode, recorded

    def close(self) -> None:
        """End the tasks at once."""
        for reference in self._running:
            with suppress(exceptions.RayError):
                ray.cancel(reference, force=True)
        self._running = {}


_roller: EpisodeRoller | None = None
"""Of this process of Ray: it rolls one task after another."""


@ray.remote
def _task(config: RunConfig, episode: EpisodeId) -> RecordedEpisode:
    """Roll an episode."""
    global _roller
    if _roller is None or _roller.config != config:
        if _roller is not None:
            _roller.close()
        _roller = EpisodeRoller(config)
    return _roller.roll(episode)
