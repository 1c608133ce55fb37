"""Frames of an episode in another size than the policy saw."""

from __future__ import annotations

import numpy as np

from prelar_ray.config import EnvConfig
from prelar_ray.envs.registry import make_env
from prelar_ray.errors import DataError, EnvironmentFailure, PrelarError
from prelar_ray.types import Episode, Frames

__all__ = ["redrawn"]


def redrawn(config: EnvConfig, seed: int, episode: Episode, size: int) -> Frames:
    """Return frames ``(T, size, size, C)`` of an episode: another environment repeats it, and draws in full quality.

    Args:
        config: of the environment that the episode is of; it may observe vectors alone.
        seed: with which the episode began.

    Raises:
        ConfigError, RenderingError: as :func:`~prelar_ray.envs.registry.make_env`.
        DataError: the environment did otherwise with the same seed and actions.
        EnvironmentFailure: it failed, for example because it cannot be drawn.
    """
    env = make_env(config.model_copy(update={"image_size": size, "render_quality": "full"}), seed)
    try:
        frames = [env.reset(seed=seed)[0]["image"]]
        for step in range(1, len(episode)):
            observation, reward, terminated, truncated, _ = env.step(episode.action[step])
            _check_repeated(config.task, step, episode, reward, terminated or truncated)
            frames.append(observation["image"])
    except PrelarError:
        raise
    except Exception as error:  # the simulator's own
        raise EnvironmentFailure(
            f"{config.task}: cannot be drawn again with {size} pixels: {type(error).__name__}: {error}"
        ) from error
    finally:
        env.close()
    return np.stack(frames)


def _check_repeated(task: str, step: int, episode: Episode, reward: float, ended: bool) -> None:
    if not np.isclose(reward, episode.reward[step], rtol=1e-3, atol=1e-4) or ended != (step == episode.steps):
        raise DataError(
            f"{task}: does not repeat an episode of the same seed and actions (step {step}: reward {reward:g}, before "
            f"{episode.reward[step]:g}), so it cannot be drawn again; leave out --film-size"
        )
