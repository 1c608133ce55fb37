"""Stepping several environments together with one policy, for collecting and evaluating."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from prelar_ray.acting.environment_workers import make_environments
from prelar_ray.acting.environments import EpisodeLost, MakeEnv, Step
from prelar_ray.acting.policy import ActingNoise
from prelar_ray.config import EnvConfig
from prelar_ray.errors import EnvironmentFailure
from prelar_ray.types import Episode, Frames, Vectors

__all__ = ["MEND", "Acts", "EpisodeSeeds", "Rollout", "gumbel_noise"]

EpisodeSeeds = Callable[[int, int], tuple[int, np.random.Generator]]
"""From (environment index, episode number) to the environment's seed and the generator of the actions."""

SMALLEST = np.finfo(np.float32).tiny

MEND = "mend the environment, or correct env.task and env.kwargs"
"""What to do about an environment that fails again and again."""


def gumbel_noise(exponential: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return standard Gumbel numbers from standard exponential ones, of which one in millions is 0."""
    gumbel: npt.NDArray[np.float32] = -np.log(np.maximum(exponential, SMALLEST))
    return gumbel


class Acts(Protocol):
    """Interface of a policy in a rollout; :class:`prelar_ray.acting.policy.Policy` documents the methods."""

    version: int

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of the Gumbel noise that an environment draws for the policy in every step."""

    def initial(self, n: int) -> Any:
        """State before the first step; it has the previous ``action``, and ``at`` selects rows."""

    def act(
        self,
        image: Frames,
        is_first: npt.NDArray[np.bool_],
        state: Any,
        noise: ActingNoise,
        vector: Vectors,
    ) -> tuple[npt.NDArray[np.float32], Any]:
        """Actions ``(n, A)`` and the next state, from frames and vectors ``(n, V)``; V may be 0."""


class Rollout:
    """``n`` environments in lockstep. An episode depends on its seeds and the policy only, not on its neighbours.

    An environment that raises, returns an invalid frame or reward, or does not answer in time is replaced by a new one:
    its episode is discarded and the next episode number begins. Creating the new one may fail and time out as well. One
    that is lost with the worker process of another is replaced likewise, and has not failed.
    """

    def __init__(
        self,
        make_env: MakeEnv,
        config: EnvConfig,
        indices: list[int],
        first_numbers: list[int],
        seeds: EpisodeSeeds,
        failures_allowed: int,
        timeout: float,
        workers: int = 0,
    ) -> None:
        """Make the environments.

        Args:
            make_env: creates an environment from configuration and seed.
            indices: indices of the environments in the run, ``n``.
            first_numbers: number of the first episode of each.
            seeds: seeds of every episode.
            failures_allowed: how often an environment may fail between two complete episodes.
            timeout: seconds after which an environment that does not answer has failed.
            workers: processes that step the environments; 0 steps them in this one.
        """
        self.indices, self.numbers = indices, list(first_numbers)
        self._seeds = seeds
        self._failures_allowed, self._in_a_row = failures_allowed, [0] * len(indices)
        self.failures: list[str] = []  # tolerated failures; the caller reads and clears the list
        first = {i: self._seed(i) for i in range(len(indices))}
        self._environments = make_environments(make_env, config, first, workers, timeout)
        self.actions = self._environments.actions
        self._has_success = self._environments.has_success
        self._rngs: list[np.random.Generator] = [np.random.default_rng(0)] * len(indices)
        self._rows: list[list[tuple[Step, npt.NDArray[np.float32]]]] = [[] for _ in indices]
        self._random = [False] * len(indices)
        self._active = list(range(len(indices)))
        self._state: Any = None

    @property
    def open(self) -> list[int]:
        """Positions of the environments that are in an episode."""
        return [i for i in self._active if self._rows[i]]

    @property
    def episode_steps(self) -> int:
        """Maximum length of an episode, environment steps."""
        return self._environments.episode_steps

    @property
    def terminates(self) -> bool:
        """Whether an episode can end before its time for what happens in it."""
        return self._environments.terminates

    @property
    def has_success(self) -> bool:
        """Whether the success of episodes says anything, which some environments show as late as in their steps."""
        self._has_success = self._has_success or self._environments.has_success
        return self._has_success

    def stop(self, position: int) -> None:
        """Exclude an environment from all further steps."""
        self._active.remove(position)

    def step(self, policy: Acts, random: bool, sample: bool, expl_noise: float = 0.0) -> list[tuple[int, Episode]]:
        """Step every active environment once, resetting those that are between episodes.

        Args:
            policy: acts in all episodes that did not begin with ``random``.
            random: whether episodes that begin now act uniformly at random to their end.
            sample: sample actions (training) or take their mode (evaluation).
            expl_noise: standard deviation of Gaussian noise on sampled actions, which are continuous.

        Returns:
            Episodes that ended, with the position of their environment.

        Raises:
            EnvironmentFailure: an environment failed more often than allowed; names it and the step.
        """
        while between := [i for i in self._active if not self._rows[i]]:
            self._begin(between, random)
        actions = self._actions(policy, sample, expl_noise)
        taken = dict(zip(self._active, actions, strict=True))
        finished, broken = [], {}
        for i, outcome in self._environments.step(taken).items():
            if isinstance(outcome, Exception):
                broken[i] = outcome
                continue
            self._rows[i].append((outcome, taken[i]))
            if outcome.terminated or outcome.truncated:
                finished.append((i, self._finish(i, -1 if self._random[i] else policy.version)))
        self._replace(broken)
        return finished

    def close(self) -> None:
        """Close all environments, broken ones included."""
        self._environments.close()

    def _actions(self, policy: Acts, sample: bool, expl_noise: float) -> npt.NDArray[np.float32]:
        """Return the actions of the active environments, ``(n, A)``; each environment has its own generator.

        Every environment draws all numbers in every step, used or not, so that an episode does not depend on whether
        its neighbours act at random.
        """
        rngs = [self._rngs[i] for i in self._active]
        uniform = np.stack([rng.random(self.actions.size, dtype=np.float32) for rng in rngs])
        exponential = np.stack([rng.standard_exponential(policy.noise_shape, dtype=np.float32) for rng in rngs])
        normal = np.stack([rng.standard_normal(self.actions.size, dtype=np.float32) for rng in rngs])
        random = np.array([self._random[i] for i in self._active])
        actions = self.actions.random(uniform)
        if not random.all():
            shown = [self._rows[i][-1][0] for i in self._active]
            image, vector = np.stack([step.image for step in shown]), np.stack([step.vector for step in shown])
            first = np.array([len(self._rows[i]) == 1 for i in self._active])
            noise = ActingNoise(gumbel=gumbel_noise(exponential), uniform=uniform if sample else None)
            chosen, state = policy.act(image, first, self._policy_state(policy), noise, vector)
            if expl_noise:
                chosen = np.clip(chosen + expl_noise * normal, -1, 1)
                state = state._replace(action=state.action.new_tensor(chosen))
            self._state = (tuple(self._active), state)
            actions[~random] = chosen[~random]
        return actions

    def _policy_state(self, policy: Acts) -> Any:
        if self._state is None:
            return policy.initial(len(self._active))
        active, state = self._state
        if active == tuple(self._active):
            return state
        rows = [active.index(i) for i in self._active]  # environments are only removed, never added
        return state.at(rows)

    def _begin(self, positions: list[int], random: bool) -> None:
        """Begin an episode in each of these environments."""
        seeds = {}
        for i in positions:
            seeds[i], self._rngs[i] = self._seeds(self.indices[i], self.numbers[i])
            self._random[i] = random
        zeros = np.zeros(self.actions.size, dtype=np.float32)
        broken = {}
        for i, outcome in self._environments.reset(seeds).items():
            if isinstance(outcome, Exception):
                broken[i] = outcome
            else:
                self._rows[i] = [(outcome, zeros)]
        self._replace(broken)

    def _replace(self, broken: Mapping[int, Exception]) -> None:
        """Discard the episodes of environments and make these again, or give up; failing to make one counts, too."""
        where = {i: f"step {len(rows)}" if rows else "reset" for i, rows in enumerate(self._rows)}
        while broken := {i: error for i, error in broken.items() if i in self._active}:
            for i, error in broken.items():
                self._discard(i, where[i], error)
            broken = self._environments.replace({i: self._seed(i) for i in broken})
            where = dict.fromkeys(where, "making it")

    def _discard(self, i: int, where: str, error: Exception) -> None:
        what = f"environment {self.indices[i]}, episode {self.numbers[i]}, {where}: {type(error).__name__}: {error}"
        if not isinstance(error, EpisodeLost):
            self._in_a_row[i] += 1
        if self._in_a_row[i] > self._failures_allowed:
            raise EnvironmentFailure(f"{what}; {MEND}") from error
        self.failures.append(what)
        self._rows[i] = []
        self.numbers[i] += 1

    def _seed(self, i: int) -> int:
        return self._seeds(self.indices[i], self.numbers[i])[0]

    def _finish(self, i: int, version: int) -> Episode:
        steps, actions = zip(*self._rows[i], strict=True)
        first = np.zeros(len(steps), dtype=np.bool_)
        first[0] = True
        episode = Episode(
            image=np.stack([step.image for step in steps]),
            action=np.stack(actions),
            reward=np.array([step.reward for step in steps], dtype=np.float32),
            is_first=first,
            is_terminal=np.array([step.terminated for step in steps], dtype=np.bool_),
            success=np.array([step.success for step in steps], dtype=np.bool_),
            env_index=self.indices[i],
            number=self.numbers[i],
            weight_version=version,
            vector=np.stack([step.vector for step in steps]),
        )
        self._rows[i] = []
        self.numbers[i] += 1
        self._in_a_row[i] = 0
        return episode
