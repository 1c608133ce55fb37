"""The collector role: steps training environments and returns finished episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prelar_ray.acting.policy import Policy, PolicyWeights, acting_device
from prelar_ray.acting.rollout import Rollout
from prelar_ray.action_space import ActionSpace
from prelar_ray.config import RunConfig
from prelar_ray.envs.registry import make_env
from prelar_ray.seeding import derive_seed, generator
from prelar_ray.types import Episode

__all__ = ["Collected", "Collector"]

FAILURES_IN_A_ROW = 3
"""Failures of one environment between two complete episodes that a run tolerates; one more ends the run."""


@dataclass(frozen=True)
class Collected:
    """Summary of one request, small enough to pass through the driver; the episodes are returned beside it."""

    env_steps: int  # taken in this request, open episodes included; action repeat counted
    version: int  # of the policy that acted; -1 before the first weights
    returns: tuple[float, ...]  # of the finished episodes
    successes: tuple[bool, ...]  # none where the task has no success
    lengths: tuple[int, ...]  # agent steps
    numbers: dict[int, int]  # number of the next episode by environment index
    failures: tuple[str, ...]  # of environments that were replaced; the episode of each is discarded


class Collector:
    """Plain class; a Ray actor may own one. Each episode's seed follows from (run, environment, episode number)."""

    def __init__(self, config: RunConfig, index: int, first_numbers: list[int]) -> None:
        k = config.collect.envs_per_collector
        self.config = config
        indices = list(range(index * k, (index + 1) * k))
        self.rollout = Rollout(
            make_env,
            config.env,
            indices,
            first_numbers,
            self._seeds,
            failures_allowed=FAILURES_IN_A_ROW,
            timeout=config.env.timeout,
            workers=config.collect.workers,
        )
        policy = Policy(config, self.rollout.actions, one_by_one=config.collect.synchronous)
        self.policy = policy.to(acting_device(config.collect.gpus))

    def actions(self) -> ActionSpace:
        """What may be done."""
        return self.rollout.actions

    def terminates(self) -> bool:
        """Whether an episode can end before its time for what happens in it."""
        return self.rollout.terminates

    def episode_steps(self) -> int:
        """Maximum length of an episode, environment steps."""
        return self.rollout.episode_steps

    def collect(
        self, steps: int, random: bool, version: int, weights: PolicyWeights | None
    ) -> tuple[Collected, list[Episode]]:
        """Take ``steps`` agent steps in each environment.

        Args:
            steps: per environment.
            random: whether episodes that begin now act at random.
            version, weights: loaded if newer than those of this collector.

        Raises:
            EnvironmentFailure: an environment failed more often in a row than is tolerated.
        """
        if weights is not None and version > self.policy.version:
            self.policy.load_weights(weights, version)
        episodes: list[Episode] = []
        for _ in range(steps):
            finished = self.rollout.step(self.policy, random, sample=True, expl_noise=self.config.collect.expl_noise)
            episodes += [episode for _, episode in finished]
        rollout = self.rollout
        failures, rollout.failures = tuple(rollout.failures), []
        summary = Collected(
            env_steps=steps * len(rollout.indices) * self.config.env.action_repeat,
            version=self.policy.version,
            returns=tuple(episode.episode_return for episode in episodes),
            successes=tuple(episode.succeeded for episode in episodes) if episodes and rollout.has_success else (),
            lengths=tuple(episode.steps for episode in episodes),
            numbers=dict(zip(rollout.indices, rollout.numbers, strict=True)),
            failures=failures,
        )
        return summary, episodes

    def close(self) -> None:
        """Close the environments."""
        self.rollout.close()

    def _seeds(self, env_index: int, number: int) -> tuple[int, np.random.Generator]:
        seed = self.config.seed
        return derive_seed(seed, "env", env_index, number), generator(seed, "acting", env_index, number)
