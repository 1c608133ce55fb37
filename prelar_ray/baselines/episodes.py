"""What becomes of training episodes, from the env runners to the algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from prelar_ray.baselines.environment import FINISHED

__all__ = ["FinishedEpisodes", "NoteFinishedEpisodes"]


@dataclass(frozen=True)
class FinishedEpisodes:
    """Episodes that ended in one iteration, in order."""

    returns: tuple[float, ...] = ()  # sums of rewards, without the scale that the algorithm learns from
    successes: tuple[bool, ...] = ()  # any step succeeded
    lengths: tuple[int, ...] = ()  # agent steps

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> FinishedEpisodes:
        """Read the result of an iteration."""
        noted = result.get(ENV_RUNNER_RESULTS, {}).get(FINISHED, {})
        found = (noted.get(name) for name in ("return", "success", "steps"))
        # RLlib gives a list, or NaN where no episode ended.
        returns, successes, lengths = (values if isinstance(values, list) else [] for values in found)
        return cls(
            tuple(float(value) for value in returns),
            tuple(bool(value) for value in successes),
            tuple(int(value) for value in lengths),
        )


class NoteFinishedEpisodes(RLlibCallback):
    """Writes down, in every env runner, what the environment tells of an episode that ends."""

    def on_episode_end(self, *, episode: Any, metrics_logger: MetricsLogger | None = None, **kwargs: Any) -> None:
        """Note one episode."""
        assert metrics_logger is not None
        for name, value in episode.get_infos(-1)[FINISHED].items():
            metrics_logger.log_value((FINISHED, name), value, reduce="item_series")
