"""What happened since the last line of metrics: rates, and means over finished training episodes."""

from __future__ import annotations

import time

from prelar_ray.acting.collector import Collected

__all__ = ["MetricWindow"]


class MetricWindow:
    """Counts between two lines of metrics."""

    def __init__(self) -> None:
        self.last_return = float("nan")
        self._clear()

    def _clear(self) -> None:
        self._began = time.monotonic()
        self._env_steps = self._updates = 0
        self._ages: list[int] = []
        self._episodes: list[tuple[float, int]] = []
        self._successes: list[bool] = []
        self._env_failures = 0
        self._paused = 0.0

    def collected(self, summary: Collected, age: int) -> None:
        """Count one collector's answer; ``age`` is how many updates old its policy was."""
        self._env_steps += summary.env_steps
        if summary.version >= 0:
            self._ages.append(age)
        self._episodes += zip(summary.returns, summary.lengths, strict=True)
        self._successes += summary.successes
        self._env_failures += len(summary.failures)
        if summary.returns:
            self.last_return = summary.returns[-1]

    def paused(self, seconds: float) -> None:
        """Count time in which collectors waited for the learner."""
        self._paused += seconds

    def learnt(self, updates: int) -> None:
        """Count updates."""
        self._updates += updates

    def read(self) -> dict[str, float]:
        """Return the metrics of the window and begin another. What did not happen is left out."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        values = {
            "rate/updates_per_second": self._updates / seconds,
            "rate/env_steps_per_second": self._env_steps / seconds,
            "time/collectors_paused": self._paused / seconds,
        }
        if self._env_failures:
            values["train/env_failures"] = self._env_failures
        if self._ages:
            values["weights/age_updates"] = sum(self._ages) / len(self._ages)
            values["weights/age_largest"] = max(self._ages)
        if self._episodes:
            returns, lengths = zip(*self._episodes, strict=True)
            values |= {
                "train/episode_return": sum(returns) / len(returns),
                "train/episode_steps": sum(lengths) / len(lengths),
            }
        if self._successes:
            values["train/episode_success"] = sum(self._successes) / len(self._successes)
        self._clear()
        return values
