"""The collectors of a run: one request in flight to each, and another in the place of one that dies or hangs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prelar_ray.acting.collector import Collected, Collector
from prelar_ray.config import RunConfig
from prelar_ray.errors import RoleDied
from prelar_ray.training.backend import Backend, Role

__all__ = ["CollectorPool"]

POLL_SECONDS = 1.0
NOTICE_SECONDS = 30.0
"""Between two lines about waiting for a collector to start."""

START_SECONDS = 120.0
"""What a collector's process may take to start, on a busy machine, besides ``collect.timeout``."""

DEATHS_IN_A_ROW = 3
"""Deaths of one collector without an answer in between after which another takes its place; one more is fatal."""

log = logging.getLogger(__name__)


@dataclass
class _Request:
    """What a collector was asked for, and how far it came."""

    env_steps: int
    version: int  # of the weights it goes with
    began: float | None  # seconds, monotonic; None while those weights are still being learnt
    summary: Any  # future
    episodes: Any  # future
    insert: Any = None  # future, once the episodes are on their way to the replay


class CollectorPool:
    """Knows who is busy with what, and which episode every environment begins next."""

    def __init__(self, backend: Backend, config: RunConfig, numbers: Mapping[int, int]) -> None:
        """Start the collectors; ``numbers`` holds the next episode of every environment that has had one."""
        self.backend, self.config = backend, config
        self.numbers = dict(numbers)
        self._roles = [self._start(index) for index in range(config.collect.collectors)]
        self._requests: dict[int, _Request] = {}  # by collector, until the replay has taken its episodes in
        self._deaths: dict[int, int] = {}  # of each collector since it last answered

    def __len__(self) -> int:
        return len(self._roles)

    def ask(self, method: str) -> Any:
        """Ask the first collector what all would answer alike; it may still be making its environments.

        Raises:
            RoleDied: it died, or did not start and answer within its time, again and again.
        """
        while True:
            try:
                return self.backend.get(self._answered(0, self._roles[0].call(method)))
            except RoleDied as death:
                self._replace(0, death)

    def _answered(self, index: int, future: Any) -> Any:
        """Return ``future`` once it is done."""
        name, limit = self._roles[index].name, self.config.collect.timeout + START_SECONDS
        until = time.monotonic() + limit
        while not self.backend.wait([future], min(NOTICE_SECONDS, limit)):
            if time.monotonic() >= until and self.backend.parallel:
                raise RoleDied(name, f"no answer for {limit:g} s while it made its environments (collect.timeout)")
            log.warning("waiting for %s, which makes its environments", name)
        return future

    @property
    def idle(self) -> list[int]:
        """Collectors without a request."""
        return [index for index in range(len(self)) if index not in self._requests]

    @property
    def waiting_for(self) -> dict[int, Any]:
        """By collector the future that its request waits for: its answer, or the replay's that took it in."""
        return {i: r.summary if r.insert is None else r.insert for i, r in self._requests.items()}

    @property
    def env_steps_under_way(self) -> int:
        """Environment steps asked for that the replay does not know yet."""
        return sum(request.env_steps for request in self._requests.values())

    @property
    def oldest_version(self) -> int | None:
        """Version of the oldest weights that a collector still acts with; None while none acts."""
        return min((r.version for r in self._requests.values() if r.insert is None), default=None)

    def request(self, index: int, steps: int, random: bool, version: int, weights: Any, ready: bool) -> None:
        """Ask for ``steps`` agent steps in each environment.

        Args:
            weights: future of the weights of ``version``.
            ready: whether the learner has them already; else :meth:`learnt` will say so.
        """
        collect = self.config.collect
        summary, episodes = self._roles[index].call("collect", steps, random, version, weights, returns=2)
        env_steps = steps * collect.envs_per_collector * self.config.env.action_repeat
        began = time.monotonic() if ready else None
        self._requests[index] = _Request(env_steps, version, began, summary, episodes)

    def learnt(self, updates: int) -> None:
        """Note how far the learner is: whoever waits for weights up to there has them now."""
        for request in self._requests.values():
            if request.began is None and request.version <= updates:
                request.began = time.monotonic()

    def wait(self, index: int) -> bool:
        """Wait for a collector's answer; False if it hangs, and another took its place."""
        while not self.backend.wait([self._requests[index].summary], POLL_SECONDS):
            if self.replace_if_overdue(index):
                return False
        return True

    def has_answered(self, index: int) -> bool:
        """Whether the episodes of a request are on their way to the replay."""
        return self._requests[index].insert is not None

    def receive(self, index: int) -> tuple[Collected, Any] | None:
        """Return an answer and the future of its episodes; None if the collector died and another took its place."""
        request = self._requests[index]
        try:
            summary: Collected = self.backend.get(request.summary)
        except RoleDied as error:
            if error.role != self._roles[index].name:  # the learner, whose weights it was to get
                raise
            self._replace(index, error)
            return None
        self._deaths[index] = 0
        for failure in summary.failures:
            log.warning("%s; its episode is left out and the environment made anew", failure)
        self.numbers |= summary.numbers
        return summary, request.episodes

    def inserting(self, index: int, insert: Any) -> None:
        """Note the future of the replay's taking the answer in."""
        self._requests[index].insert = insert

    def inserted(self, index: int) -> Any:
        """Return that future and be done with the request."""
        return self._requests.pop(index).insert

    def replace_if_overdue(self, index: int) -> bool:
        """Replace a collector that has had its weights for too long without an answer."""
        request, limit = self._requests[index], self.config.collect.timeout
        if request.insert is not None or request.began is None or not self.backend.parallel:
            return False
        if time.monotonic() - request.began <= limit:
            return False
        self._replace(index, RoleDied(self._roles[index].name, f"no answer for collect.timeout={limit:g} s"))
        return True

    def _start(self, index: int) -> Role:
        k = self.config.collect.envs_per_collector
        first_numbers = [self.numbers.get(env, 0) for env in range(index * k, (index + 1) * k)]
        return self.backend.start(f"collector-{index}", Collector, self.config, index, first_numbers)

    def _replace(self, index: int, death: RoleDied) -> None:
        self._deaths[index] = self._deaths.get(index, 0) + 1
        if self._deaths[index] > DEATHS_IN_A_ROW:
            raise death
        log.warning("%s; another takes its place, its open episodes are lost", death)
        self.backend.stop(self._roles[index])
        self._roles[index] = self._start(index)
        self._requests.pop(index, None)
