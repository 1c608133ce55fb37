"""What tests of fine-tuning runs share."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from prelar_ray.checkpoint.store import CheckpointStore
from prelar_ray.errors import (
    RoleDied,
)
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.roles import RoleId
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import read_metrics
from prelar_ray.training.local_backend import LocalBackend

Run = Callable[..., RunFolder]
Events = list[tuple[str, int, int]]

COLLECTOR, LEARNER, EVALUATOR = RoleId("collector", 0), RoleId("learner"), RoleId("evaluator")


def crash() -> None:
    raise RuntimeError("power cut")


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def never() -> None:
    pytest.fail("not to be called")


def checkpoints(folder: RunFolder) -> list[int]:
    return [int(path.name) for path in CheckpointStore(folder.checkpoints, 9).paths()]


def logged(folder: RunFolder) -> list[dict[str, Any]]:
    """Lines of training metrics; evaluations have lines of their own."""
    return [row for row in read_metrics(folder.metrics_path) if "loss/total" in row]


def numbers_by_env(folder: RunFolder) -> dict[str, list[int]]:
    """Numbers of the stored episodes in order of insertion."""
    found: dict[str, list[int]] = {}
    for key in EpisodeStore(folder.replay).keys():
        env, number = key.split("-")
        found.setdefault(env, []).append(int(number.removeprefix("episode")))
    return found


def assert_every_episode_once(folder: RunFolder) -> None:
    for numbers in numbers_by_env(folder).values():
        assert numbers == list(range(len(numbers)))


class SlowEvaluator(LocalBackend):
    """An evaluation comes to its end when somebody waits for it, and not before."""

    def __init__(self) -> None:
        super().__init__()
        self.updates = 0
        self.waited: list[int] = []  # updates that were done when somebody began to wait

    def wait(self, futures: Any, timeout: float) -> list[Any]:
        if any(future.call.method.__name__ == "evaluate" for future in futures):
            if not timeout:
                return [future for future in futures if future.done]
            self.waited.append(self.updates)
        return super().wait(futures, timeout)

    def _run_next(self) -> None:
        while self._queue[0].method.__name__ == "evaluate" and any(
            call.method.__name__ != "evaluate" for call in self._queue
        ):
            self._queue.rotate(-1)
        self.updates += self._queue[0].method.__name__ == "update"
        super()._run_next()


class Mortal(LocalBackend):
    """The first role of an id dies at the n-th call of a method; who waits for that call hears of it."""

    def __init__(self, victim: RoleId, method: str, number: int = 1) -> None:
        super().__init__()
        self.victim, self.method, self.number = victim, method, number
        self.started: list[RoleId] = []
        self.stopped: list[RoleId] = []

    def start(self, role: RoleId, make: Any, *args: Any) -> Any:  # type: ignore[override]
        started: Any = super().start(role, make, *args)
        if role == self.victim and role not in self.started:
            self._mark(started)
        self.started.append(role)
        return started

    def _mark(self, role: Any) -> None:
        enqueue, calls = role._enqueue, itertools.count(1)

        def enqueueing(method: Any, args: Any, kwargs: Any) -> Any:
            if method.__name__ == self.method and next(calls) == self.number:
                return DeadCall()
            return enqueue(method, args, kwargs)

        role._enqueue = enqueueing

    def wait(self, futures: Any, timeout: float) -> list[Any]:
        dead = [future for future in futures if is_dead(future)]
        return dead or super().wait(futures, timeout)

    def get(self, future: Any) -> Any:
        if is_dead(future):
            raise RoleDied(self.victim, "killed")
        return super().get(future)

    def stop(self, role: Any) -> None:
        self.stopped.append(role.id)
        super().stop(role)


class DeadCall:
    """A call that a dead role never answers."""

    done = False


def is_dead(future: Any) -> bool:
    return isinstance(future.call, DeadCall)
