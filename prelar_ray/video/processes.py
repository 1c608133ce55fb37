"""Processes of this machine that roll the episodes of a recording."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from typing import Final

from prelar_ray.config import RunConfig
from prelar_ray.envs.egl_devices import TURN
from prelar_ray.envs.opengl import FIRST_FRAME_SECONDS, HANG_ADVICE
from prelar_ray.envs.watchdog import HUNG
from prelar_ray.errors import EnvironmentFailure, PrelarError, RenderingError
from prelar_ray.video.episodes import EpisodeId, EpisodeRoller, RecordedEpisode, episode_name
from prelar_ray.wording import how_it_ended

__all__ = ["ONE_THREAD", "ProcessPool", "inheriting"]

ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LP_NUM_THREADS": "0"}
"""Environment of a process that shares its cores with others like it; 0 has llvmpipe draw in the thread that asks."""

DYING_SECONDS: Final = 10.0
"""For a process whose pipe broke to end."""


class ProcessPool:
    """Processes with an environment and an OpenGL context of their own each.

    They are spawned: a fork would share the state of the simulators and the driver. So a script that records in several
    processes needs the usual ``if __name__ == "__main__":``.
    """

    def __init__(self, config: RunConfig, size: int) -> None:
        self.size = size
        self._config = config
        self._workers: list[_Worker] = []
        try:
            for turn in range(size):
                self._workers.append(_Worker(config, turn))
        except BaseException:
            self.close()
            raise

    def ask(self, episode: EpisodeId) -> None:
        """Have an idle process roll an episode."""
        worker = next(worker for worker in self._workers if worker.episode is None)
        worker.episode = episode
        with suppress(OSError):  # it died; receiving tells how
            worker.pipe.send(episode)

    def receive(self) -> tuple[EpisodeId, RecordedEpisode | PrelarError]:
        """Wait for an episode that is done, whichever is the first, or return why it failed."""
        busy = {worker.pipe: worker for worker in self._workers if worker.episode is not None}
        (first, *_) = connection.wait(list(busy))
        worker = busy[first]  # type: ignore[index]  # one of those waited for
        assert worker.episode is not None
        answer: RecordedEpisode | PrelarError
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            answer = self._death(worker, worker.episode)
        episode, worker.episode = worker.episode, None
        return episode, answer

    def close(self) -> None:
        """End the processes at once; what they roll is nobody's."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers = []

    def _death(self, worker: _Worker, episode: EpisodeId) -> PrelarError:
        name = episode_name(self._config, episode)
        worker.process.join(DYING_SECONDS)
        status = worker.process.exitcode
        if status == -HUNG:
            return RenderingError(f"{name}: {HANG_ADVICE.format(seconds=FIRST_FRAME_SECONDS)}")
        how = how_it_ended(status)
        return EnvironmentFailure(
            f"{name}: the process that rolled it {how}; where memory ran out, fewer record.workers need less"
        )


class _Worker:
    """One process, and the episode that it rolls."""

    def __init__(self, config: RunConfig, turn: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.episode: EpisodeId | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, config), name=f"recorder-{turn}", daemon=True)
        with inheriting({**ONE_THREAD, TURN: str(turn)}):
            self.process.start()
        theirs.close()  # now the pipe ends with the process


def _work(pipe: Connection, config: RunConfig) -> None:
    """Roll the episodes that are asked for, until the other end closes."""
    roller = EpisodeRoller(config)
    with suppress(EOFError, OSError):
        while True:
            episode = pipe.recv()
            answer: RecordedEpisode | PrelarError
            try:
                answer = roller.roll(episode)
            except PrelarError as error:
                answer = error
            pipe.send(answer)


@contextmanager
def inheriting(variables: dict[str, str]) -> Iterator[None]:
    """Start processes in the block with these environment variables, and deaf to interrupts: who started ends them.

    Libraries read the variables before any code of the process runs. A blocked signal stays blocked in a process that
    is started; multiprocessing's own helper would unblock it here if it were not started before.
    """
    resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
