"""Who rolls the episodes of a recording: this process, or several others; the order of the store is kept."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Final, Protocol

from prelar_ray.config import RunConfig
from prelar_ray.errors import PrelarError
from prelar_ray.video.episodes import EpisodeId, EpisodeRoller, RecordedEpisode
from prelar_ray.video.processes import ProcessPool

__all__ = ["Pool", "Roll", "in_order", "roll_here", "roll_locally", "worker_count"]

Roll = Callable[[RunConfig, Sequence[EpisodeId], Callable[[int], None]], Generator[RecordedEpisode]]
"""Rolls episodes in the order given and says how many frames are new; closing it early ends what it started."""

MOST_WORKERS: Final = 16
"""Processes where the user names no number: each holds a simulator and a context on a GPU, which many share badly."""

AHEAD: Final = 2
"""Episodes per process that are rolled or wait for one before them, so that one long episode does not stop the rest."""


class Pool(Protocol):
    """Processes that roll one episode at a time each."""

    size: int
    """Number of processes."""

    def ask(self, episode: EpisodeId) -> None:
        """Have an idle process roll an episode."""

    def receive(self) -> tuple[EpisodeId, RecordedEpisode | PrelarError]:
        """Wait for an episode that is done, whichever is the first, or return why it failed.

        An environment that raised and a process that died are an EnvironmentFailure that names task and episode.
        """

    def close(self) -> None:
        """End the processes at once."""


def worker_count(config: RunConfig, cores: int) -> int:
    """Return how many processes record on ``cores`` CPU cores."""
    record = config.record
    return min(record.workers or min(cores, MOST_WORKERS), len(record.tasks) * record.episodes_per_task)


def roll_locally(
    config: RunConfig, episodes: Sequence[EpisodeId], on_frames: Callable[[int], None]
) -> Generator[RecordedEpisode]:
    """Roll in this process if one is enough, else in processes of this machine."""
    workers = worker_count(config, len(os.sched_getaffinity(0)))
    if workers == 1:
        return roll_here(config, episodes, on_frames)
    return in_order(lambda: ProcessPool(config, workers), episodes, on_frames)


def roll_here(
    config: RunConfig, episodes: Sequence[EpisodeId], on_frames: Callable[[int], None]
) -> Generator[RecordedEpisode]:
    """Roll in this process."""
    roller = EpisodeRoller(config)
    try:
        for episode in episodes:
            yield roller.roll(episode, on_frames)
    finally:
        roller.close()


def in_order(
    start: Callable[[], Pool], episodes: Sequence[EpisodeId], on_frames: Callable[[int], None]
) -> Generator[RecordedEpisode]:
    """Roll in the processes that ``start`` starts; at most :data:`AHEAD` episodes per process are in memory.

    Raises:
        PrelarError: why an episode failed, after all episodes before it.
    """
    left, done, running = deque(episodes), dict[EpisodeId, RecordedEpisode | PrelarError](), 0
    pool = start()
    try:
        for wanted in episodes:
            while True:
                while left and running < pool.size and running + len(done) < AHEAD * pool.size:
                    pool.ask(left.popleft())
                    running += 1
                if wanted in done:
                    break
                episode, recorded = pool.receive()
                running -= 1
                done[episode] = recorded
                if isinstance(recorded, PrelarError):
                    left.clear()  # those before it are rolled already, or being rolled
                else:
                    on_frames(len(recorded.frames))
            result = done.pop(wanted)
            if isinstance(result, PrelarError):
                raise result
            yield result
    finally:
        pool.close()
