"""Ring of episodes with the published way of sampling segments."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from prelar_ray.errors import DataError
from prelar_ray.types import Episode, SequenceBatch

__all__ = ["ReplayBuffer"]


class ReplayBuffer:
    """Holds up to ``capacity_steps`` steps of finished episodes; the oldest episodes leave first."""

    def __init__(self, capacity_steps: int, segment_length: int, rng: np.random.Generator) -> None:
        self.capacity_steps = capacity_steps
        self.segment_length = segment_length
        self.rng = rng
        self.steps = 0
        self._episodes: deque[Episode] = deque()

    def __len__(self) -> int:
        return len(self._episodes)

    def __iter__(self) -> Iterator[Episode]:
        return iter(self._episodes)

    @property
    def can_sample(self) -> bool:
        """Whether there is any episode."""
        return bool(self._episodes)

    def add(self, episode: Episode) -> list[Episode]:
        """Append an episode and return those that had to leave.

        Raises:
            DataError: the episode alone exceeds the capacity, or its arrays do not fit each other.
            NonFiniteError: a reward or action is not finite.
        """
        episode.validate()
        if len(episode) > self.capacity_steps:
            raise DataError(
                f"{episode.key} has {len(episode)} steps, replay.capacity_steps="
                f"{self.capacity_steps}; raise the capacity"
            )
        self._episodes.append(episode)
        self.steps += len(episode)
        left = []
        while self.steps > self.capacity_steps:
            oldest = self._episodes.popleft()
            self.steps -= len(oldest)
            left.append(oldest)
        return left

    def sample(self, batch_size: int) -> SequenceBatch:
        """Sample segments: an episode uniformly, then a start uniformly with the ends slightly over-represented.

        The start comes from a range ``segment_length`` longer than the valid one and is clamped, as published. An
        episode that is shorter than a segment is taken whole, and others follow in the same way until the segment is
        full: what ended early is learnt from too. The first row of a segment and of each part has ``is_first`` set, for
        the state before it is unknown.

        Raises:
            DataError: no episode has finished.
        """
        if not self._episodes:
            raise DataError(
                "no episode has finished, so there is nothing to learn from; raise finetune.env_steps, "
                "or collect in fewer environments at once (collect.collectors, collect.envs_per_collector)"
            )
        shape, first = (batch_size, self.segment_length), self._episodes[0]
        image = np.empty((*shape, *first.image.shape[1:]), dtype=np.uint8)
        action = np.empty((*shape, *first.action.shape[1:]), dtype=np.float32)
        vector = np.empty((*shape, *first.vector.shape[1:]), dtype=np.float32)
        reward = np.empty(shape, dtype=np.float32)
        is_first = np.empty(shape, dtype=np.bool_)
        is_terminal = np.empty(shape, dtype=np.bool_)
        for row, index in enumerate(self.rng.integers(len(self._episodes), size=batch_size)):
            for at, episode, span in self._parts(self._episodes[index]):
                place = row, at
                image[place], vector[place] = episode.image[span], episode.vector[span]
                action[place], reward[place] = episode.action[span], episode.reward[span]
                is_first[place], is_terminal[place] = episode.is_first[span], episode.is_terminal[span]
                is_first[row, at.start] = True
        return SequenceBatch(image, action, reward, is_first, is_terminal, vector)

    def _parts(self, episode: Episode) -> Iterator[tuple[slice, Episode, slice]]:
        """Yield what a segment that begins with ``episode`` is made of: rows of it, from which episode, which rows."""
        filled = 0
        while True:
            room = self.segment_length - filled
            start, last = 0, len(episode) - room
            if last >= 0:
                start = min(int(self.rng.integers(last + 1 + room)), last)
            rows = min(room, len(episode))
            yield slice(filled, filled + rows), episode, slice(start, start + rows)
            filled += rows
            if filled == self.segment_length:
                return
            episode = self._episodes[int(self.rng.integers(len(self._episodes)))]

    def state_dict(self) -> dict[str, Any]:
        """State of the sampler; episodes are durable elsewhere."""
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the sequence of samples."""
        self.rng.bit_generator.state = state["rng"]
