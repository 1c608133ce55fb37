"""One episode of a recording: who acts, from which seeds, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prelar_ray.config import EnvConfig, RecordConfig, RunConfig
from prelar_ray.envs import PixelEnv, make_env
from prelar_ray.envs.pixel_env import Action
from prelar_ray.errors import ConfigError, EnvironmentFailure, RenderingError
from prelar_ray.seeding import derive_seed, generator
from prelar_ray.types import Frames
from prelar_ray.video.actions import Actions

__all__ = ["EpisodeId", "EpisodeRoller", "RecordedEpisode", "all_episodes", "env_config", "episode_name"]


class EpisodeId(NamedTuple):
    """An episode of a recording."""

    task: int
    """Position in ``record.tasks``, which may name a task twice."""
    number: int
    """Of the task's episodes."""


@dataclass(frozen=True)
class RecordedEpisode:
    """What an episode leaves."""

    frames: Frames
    """uint8 ``(T, Hpx, Wpx, C)``."""
    actions: Actions
    """float32 ``(T, A)``."""
    succeeded: bool | None
    """Whether any of its steps succeeded; None where the environment has shown no success so far."""
    nuisance: Actions | None = None
    """float32 ``(T, D)``, how far that moved which moves by itself, on the way to each frame; None where nothing does.
    """


def all_episodes(config: RunConfig) -> list[EpisodeId]:
    """Return the episodes of a recording, in the order of its store."""
    count = config.record.episodes_per_task
    return [EpisodeId(task, number) for task in range(len(config.record.tasks)) for number in range(count)]


def episode_name(config: RunConfig, episode: EpisodeId) -> str:
    """Return for example ``metaworld/push-v3, episode 3``."""
    return f"{config.record.tasks[episode.task]}, episode {episode.number}"


def env_config(config: RunConfig, task: str) -> EnvConfig:
    """Return the environment of a recording of ``task``: without vectors, which videos do not hold."""
    return config.env.model_copy(update={"task": task, "vector_key": "", "vector_size": 0})


class EpisodeRoller:
    """Rolls episodes in this process. It keeps one environment, of the task that was asked for last.

    Environment and actions of every episode have seeds of their own, from (run seed, position of the task, number), and
    a reset leaves nothing of the episode before: so it does not matter which process rolls which episodes.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._env: PixelEnv | None = None
        self._task = -1

    def roll(self, episode: EpisodeId, on_frames: Callable[[int], None] = lambda frames: None) -> RecordedEpisode:
        """Roll an episode; ``on_frames`` is called with the number of new frames.

        Raises:
            EnvironmentFailure: the environment raised; names task and episode.
            ConfigError, RenderingError: see :func:`prelar_ray.envs.make_env`.
        """
        try:
            return self._roll(self._environment(episode.task), episode, on_frames)
        except (ConfigError, RenderingError):
            raise
        except Exception as error:
            name = episode_name(self.config, episode)
            raise EnvironmentFailure(f"{name}: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Free the environment."""
        if self._env is not None:
            self._env.close()
            self._env, self._task = None, -1

    def _environment(self, task: int) -> PixelEnv:
        if self._env is None or self._task != task:
            self.close()
            self._env = make_env(env_config(self.config, self.config.record.tasks[task]), seed=0)  # reset gives others
            self._task = task
        return self._env

    def _roll(self, env: PixelEnv, episode: EpisodeId, on_frames: Callable[[int], None]) -> RecordedEpisode:
        record, seed = self.config.record, self.config.seed
        rng = generator(seed, "record", *episode)
        with_expert = _expert_acts(record, episode.number)
        observation, _ = env.reset(seed=derive_seed(seed, "record_env", *episode))
        frames, succeeded, ended = [observation["image"]], False, False
        positions = [env.nuisance()]
        actions: list[Action] = []
        on_frames(1)
        while not ended and len(frames) < record.frames_per_episode:
            action = _noisy_expert(env, record.noise, rng) if with_expert else _random_action(env, rng)
            observation, _, terminated, truncated, info = env.step(action)
            frames.append(observation["image"])
            actions.append(action)
            positions.append(env.nuisance())
            succeeded |= info["success"]
            ended = terminated or truncated
            on_frames(1)
        led_to = [np.zeros_like(actions[0]), *actions]  # row t led to frame t; no action led to the first frame
        known = succeeded if env.has_success else None
        return RecordedEpisode(np.stack(frames), np.stack(led_to), known, _moved(positions))


def _moved(positions: Sequence[npt.NDArray[np.float64] | None]) -> Actions | None:
    """Return the way from each position ``(D,)`` to the next, ``(T, D)``; the first is zero, as no step led to it."""
    known = [position for position in positions if position is not None]
    return np.diff(known, axis=0, prepend=known[:1]).astype(np.float32) if known else None


def _expert_acts(config: RecordConfig, number: int) -> bool:
    """Return whether the expert acts in an episode; ``mixed`` alternates, starting with the expert."""
    return config.policy == "expert" or (config.policy == "mixed" and number % 2 == 0)


def _random_action(env: PixelEnv, rng: np.random.Generator) -> Action:
    if env.actions.is_discrete:
        return env.actions.random(rng.random(env.actions.size, dtype=np.float32))
    return rng.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)


def _noisy_expert(env: PixelEnv, noise: float, rng: np.random.Generator) -> Action:
    """Return the expert's action plus Gaussian noise of ``noise`` times the action range, which is 2."""
    action = env.expert_action() + rng.normal(0.0, 2.0 * noise, env.action_space.shape)
    return np.clip(action, -1.0, 1.0).astype(np.float32)
