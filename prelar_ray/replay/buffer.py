"""Ring of episodes with the published way of sampling segments."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from prelar_ray.errors import DataError
from prelar_ray.types import Episode, SequenceBatch

__all__ = ["ReplayBuffer", "check_can_sample"]


class ReplayBuffer:
    """Holds up to ``capacity_steps`` steps of finished episodes; the oldest episodes leave first."""

    def __init__(self, capacity_steps: int, segment_length: int, rng: np.random.Generator) -> None:
        self.capacity_steps = capacity_steps
        self.segment_length = segment_length
        self.rng = rng
        self.steps = 0
        self._episodes: deque[Episode] = deque()
        self._eligible: deque[Episode] = deque()  # those with at least segment_length rows, in the same order

    def __len__(self) -> int:
        return len(self._episodes)

    def __iter__(self) -> Iterator[Episode]:
        return iter(self._episodes)

    @property
    def can_sample(self) -> bool:
        """Whether any episode is as long as a segment."""
        return bool(self._eligible)

    @property
    def eligible(self) -> int:
        """Episodes that are as long as a segment."""
        return len(self._eligible)

    @property
    def longest(self) -> int:
        """Steps of the longest episode; 0 without any."""
        return max((len(episode) for episode in self._episodes), default=0)

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
        if len(episode) >= self.segment_length:
            self._eligible.append(episode)
        left = []
        while self.steps > self.capacity_steps:
            oldest = self._episodes.popleft()
            self.steps -= len(oldest)
            if self._eligible and self._eligible[0] is oldest:
                self._eligible.popleft()
            left.append(oldest)
        return left

    def sample(self, batch_size: int) -> SequenceBatch:
        """Sample segments: an episode uniformly, then a start uniformly with the ends slightly over-represented.

        The start comes from a range ``segment_length`` longer than the valid one and is clamped, as published. The
        first row of every segment has ``is_first`` set, for the state before it is unknown.

        Raises:
            DataError: no episode is as long as a segment, or none has finished.
        """
        if not self._eligible:
            check_can_sample(0, self.longest, self.segment_length)
        length = self.segment_length
        first = self._eligible[0]
        image = np.empty((batch_size, length, *first.image.shape[1:]), dtype=np.uint8)
        action = np.empty((batch_size, length, *first.action.shape[1:]), dtype=np.float32)
        reward = np.empty((batch_size, length), dtype=np.float32)
        is_first = np.empty((batch_size, length), dtype=np.bool_)
        is_terminal = np.empty((batch_size, length), dtype=np.bool_)
        vector = np.empty((batch_size, length, *first.vector.shape[1:]), dtype=np.float32)
        for row, index in enumerate(self.rng.integers(len(self._eligible), size=batch_size)):
            episode = self._eligible[index]
            last = len(episode) - length
            start = min(int(self.rng.integers(last + 1 + length)), last)
            span = slice(start, start + length)
            image[row], action[row], reward[row] = episode.image[span], episode.action[span], episode.reward[span]
            is_first[row], is_terminal[row] = episode.is_first[span], episode.is_terminal[span]
            vector[row] = episode.vector[span]
        is_first[:, 0] = True
        return SequenceBatch(image, action, reward, is_first, is_terminal, vector)

    def state_dict(self) -> dict[str, Any]:
        """State of the sampler; episodes are durable elsewhere."""
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the sequence of samples."""
        self.rng.bit_generator.state = state["rng"]


def check_can_sample(eligible: int, longest: int, segment_length: int) -> None:
    """Make sure that some episode is as long as a segment.

    Args:
        eligible: episodes that are.
        longest: steps of the longest episode; 0 without any.

    Raises:
        DataError: none is, or none has finished.
    """
    if not longest:
        raise DataError(
            "no episode has finished, so there is nothing to learn from; raise finetune.env_steps, "
            "or collect in fewer environments at once (collect.collectors, collect.envs_per_collector)"
        )
    if not eligible:
        raise DataError(
            f"no episode has finetune.segment_length={segment_length} steps (longest: {longest}); shorten the segments"
        )
