"""The collectors of a run: one request in flight to each, and a new collector for one that dies or hangs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from prelar_ray.acting.collector import Collected, Collector
from prelar_ray.config import RunConfig
from prelar_ray.errors import RoleDied
from prelar_ray.roles import RoleId
from prelar_ray.training.backend import Backend, Future, Role, by_reference
from prelar_ray.training.learners import Published
from prelar_ray.training.replays import Insertion, ReplayGroup
from prelar_ray.types import Episode

__all__ = ["CollectorPool"]

POLL_SECONDS = 1.0
NOTICE_SECONDS = 30.0
"""Between two lines about waiting for a collector to start."""

START_SECONDS = 120.0
"""What a collector's process may take to start, on a busy machine, besides ``collect.timeout``."""

DEATHS_IN_A_ROW = 3
"""Deaths of one collector without an answer in between after which it is replaced; one more is fatal."""

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass
class _Request:
    """What a collector was asked for, and how far it came."""

    env_steps: int
    version: int  # of the weights it goes with
    began: float | None  # seconds, monotonic; None while those weights are still being learnt
    summary: Future[Collected]
    episodes: Future[list[Episode]]
    insertion: Insertion | None = None  # once the episodes are on their way to the replay


class CollectorPool:
    """Asks collectors for experience and hands it to the replay; knows which episode every environment begins next."""

    def __init__(self, backend: Backend, config: RunConfig, replay: ReplayGroup, numbers: Mapping[int, int]) -> None:
        """Start the collectors; ``numbers`` holds the next episode of every environment that has had one."""
        self.backend, self.config, self.replay = backend, config, replay
        self.numbers = dict(numbers)
        self._roles = [self._start(index) for index in range(config.collect.collectors)]
        self._requests: dict[int, _Request] = {}  # by collector, until the replay has inserted its episodes
        self._deaths: dict[int, int] = {}  # of each collector since it last answered

    def ask(self, method: Callable[[Collector], T]) -> T:
        """Ask the first collector what all would answer alike; it may still be making its environments.

        Raises:
            RoleDied: it died, or did not start and answer within its time, again and again.
        """
        while True:
            try:
                future = self._roles[0].call(method)
                self._wait_for_start(future)
                return self.backend.get(future)
            except RoleDied as death:
                self._replace(0, death)

    def _wait_for_start(self, future: Future[Any]) -> None:
        role, limit = self._roles[0].id, self.config.collect.timeout + START_SECONDS
        until = time.monotonic() + limit
        while not self.backend.wait([future], min(NOTICE_SECONDS, limit)):
            if time.monotonic() >= until and self.backend.parallel:
                raise RoleDied(role, f"no answer for {limit:g} s while it made its environments (collect.timeout)")
            log.warning("waiting for %s, which makes its environments", role)

    # In turns

    def collect(self, published: Published) -> list[Collected]:
        """Let every collector take its steps, and insert the episodes of all together; returns their summaries."""
        for index in range(len(self._roles)):
            self._request(index, self._turn_steps(), published, ready=True)
        waited = [index for index in range(len(self._roles)) if self._wait(index)]
        answers = {index: answer for index in waited if (answer := self._receive(index))}
        if answers:
            self._insert(answers)
            self._finish(answers)
        return list(answers.values())

    def _turn_steps(self) -> int:
        """Agent steps of each environment in a turn: those of one request, or that one update is paid with."""
        if self._random:
            return self.config.collect.request_steps
        return max(1, self.config.finetune.env_steps_per_update // (self.config.collect.collectors * self._per_step))

    def _wait(self, index: int) -> bool:
        """Wait for a collector's answer; False if it hangs, and was replaced."""
        while not self.backend.wait([self._requests[index].summary], POLL_SECONDS):
            if self._replace_if_overdue(index):
                return False
        return True

    # At once

    def request(self, published: Published, ready: bool) -> None:
        """Ask every idle collector for more steps, as far as learning keeps up and steps are left.

        Args:
            ready: whether the learner has the published weights already; else :meth:`learnt` will say so.
        """
        for index in self._idle:
            in_flight = sum(request.env_steps for request in self._requests.values())
            left = self.config.finetune.env_steps - self.replay.env_steps - in_flight
            steps = min(self.config.collect.request_steps, math.ceil(left / self._per_step))
            if self.replay.may_collect and steps > 0:
                self._request(index, steps, published, ready)

    def take(self, done: Collection[Future[Any]]) -> list[Collected]:
        """Insert the answers among the futures that are ``done``, and count those inserted.

        Replaces the collectors that are overdue. Returns the summaries of the answers.
        """
        new = []
        for index, request in list(self._requests.items()):
            if not any(future in done for future in _awaited(request)):
                self._replace_if_overdue(index)
            elif request.insertion is not None:
                self._finish([index])  # waits for the other shards, which have the same episodes to look at
            elif summary := self._receive(index):
                self._insert({index: summary})
                new.append(summary)
        return new

    @property
    def futures(self) -> list[Future[Any]]:
        """What requests wait for: the collector's answer, or the shards' that insert it."""
        return [future for request in self._requests.values() for future in _awaited(request)]

    @property
    def in_flight(self) -> int:
        """Requests that are not finished."""
        return len(self._requests)

    @property
    def oldest_version(self) -> int | None:
        """Version of the oldest weights that a collector still acts with; None while none acts."""
        return min((r.version for r in self._requests.values() if r.insertion is None), default=None)

    def learnt(self, updates: int) -> None:
        """Note how far the learner is: requests that wait for weights up to there have them now."""
        for request in self._requests.values():
            if request.began is None and request.version <= updates:
                request.began = time.monotonic()

    @property
    def paused(self) -> bool:
        """Whether some collector is idle because learning does not keep up."""
        return bool(self._idle) and not self.replay.may_collect

    def finish_insertions(self) -> None:
        """Count what is on its way to the replay, so that counters and episodes of a checkpoint agree."""
        self._finish([index for index, request in self._requests.items() if request.insertion is not None])

    # Requests

    @property
    def _idle(self) -> list[int]:
        return [index for index in range(len(self._roles)) if index not in self._requests]

    @property
    def _random(self) -> bool:
        """Whether episodes that begin now act at random."""
        return self.replay.env_steps < self.config.finetune.random_steps

    @property
    def _per_step(self) -> int:
        """Environment steps of one step of a collector."""
        return self.config.collect.envs_per_collector * self.config.env.action_repeat

    def _request(self, index: int, steps: int, published: Published, ready: bool) -> None:
        version, weights = published
        summary, episodes = self._roles[index].call_pair(
            Collector.collect, steps, self._random, version, by_reference(weights)
        )
        began = time.monotonic() if ready else None
        self._requests[index] = _Request(steps * self._per_step, version, began, summary, episodes)

    def _receive(self, index: int) -> Collected | None:
        """Return an answer; None if the collector died and was replaced."""
        try:
            summary = self.backend.get(self._requests[index].summary)
        except RoleDied as error:
            if error.role != self._roles[index].id:  # the learner, whose weights it was to get
                raise
            self._replace(index, error)
            return None
        self._deaths[index] = 0
        for failure in summary.failures:
            log.warning("%s; its episode is left out and the environment made again", failure)
        return summary

    def _insert(self, answers: Mapping[int, Collected]) -> None:
        """Send the episodes of one or several answers to the replay together."""
        requests = [self._requests[index] for index in answers]
        steps = sum(answer.env_steps for answer in answers.values())
        insertion = self.replay.insert(steps, [request.episodes for request in requests])
        for request, answer in zip(requests, answers.values(), strict=True):
            self.numbers |= answer.numbers
            request.insertion = insertion

    def _finish(self, indices: Collection[int]) -> None:
        """Wait for insertions, each of one or several requests, and be done with the requests."""
        insertions = {id(insertion): insertion for i in indices if (insertion := self._requests[i].insertion)}
        for insertion in insertions.values():
            self.replay.inserted(insertion)
            # Not before: an interrupt while the shards are waited for leaves the requests to be finished.
            self._requests = {i: request for i, request in self._requests.items() if request.insertion is not insertion}

    # Replacements

    def _start(self, index: int) -> Role[Collector]:
        k = self.config.collect.envs_per_collector
        first_numbers = [self.numbers.get(env, 0) for env in range(index * k, (index + 1) * k)]
        return self.backend.start(RoleId("collector", index), Collector, self.config, index, first_numbers)

    def _replace_if_overdue(self, index: int) -> bool:
        """Replace a collector that has had its weights for too long without an answer."""
        request, limit = self._requests[index], self.config.collect.timeout
        if request.insertion is not None or request.began is None or not self.backend.parallel:
            return False
        if time.monotonic() - request.began <= limit:
            return False
        self._replace(index, RoleDied(self._roles[index].id, f"no answer for collect.timeout={limit:g} s"))
        return True

    def _replace(self, index: int, death: RoleDied) -> None:
        self._deaths[index] = self._deaths.get(index, 0) + 1
        if self._deaths[index] > DEATHS_IN_A_ROW:
            raise death
        log.warning("%s; it is replaced, its open episodes are lost", death)
        self.backend.stop(self._roles[index])
        self._roles[index] = self._start(index)
        self._requests.pop(index, None)


def _awaited(request: _Request) -> list[Future[Any]]:
    return [request.summary] if request.insertion is None else list(request.insertion.answers)
