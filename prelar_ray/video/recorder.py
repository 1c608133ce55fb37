"""Records videos: runs a scripted or random policy and writes the frames to a video store.

The actions are written to a separate file beside the store, for the probe of the latent actions.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prelar_ray.config import EnvConfig, RecordConfig, RunConfig
from prelar_ray.envs import PixelEnv, check_task, make_env
from prelar_ray.envs.pixel_env import Action
from prelar_ray.errors import ConfigError, RunFolderError
from prelar_ray.seeding import derive_seed, generator
from prelar_ray.types import Frames
from prelar_ray.video.actions import Actions, ActionWriter, actions_path
from prelar_ray.video.store import MANIFEST, VideoWriter
from prelar_ray.wording import counted

__all__ = ["RecordSummary", "discard", "record"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordSummary:
    """What was recorded."""

    path: Path
    episodes: int
    frames: int
    seconds: float
    """Wall time."""
    success_rates: dict[str, float]
    """Share of episodes with success at any recorded step, by task."""


def record(config: RunConfig, path: Path, on_frames: Callable[[int], None]) -> RecordSummary:
    """Run ``config.record.policy`` on ``config.record.tasks`` and write a video store at ``path``, actions beside it.

    ``on_frames`` is called with the number of new frames. Each episode is determined by the run's seed, the position of
    its task in the list and its number. Ctrl-C keeps the recorded episodes and leaves the store marked incomplete.

    Raises:
        ConfigError: an unknown task or camera, or a task without the requested expert; nothing is written.
        RunFolderError: ``path`` is not an empty or new folder, or actions of an earlier recording lie beside it.
        DataError: the disk is full.
    """
    start = time.perf_counter()
    _refuse_earlier_recording(path)
    attributes = _attributes(config)
    shard_frames = config.record.shard_frames
    actions = ActionWriter(actions_path(path), shard_frames)
    writer = VideoWriter(path, attributes, shard_frames)
    try:
        with writer, actions:
            successes = _roll_all(config, writer, actions, on_frames)
    except KeyboardInterrupt:
        asked = counted(len(config.record.tasks) * config.record.episodes_per_task, "episode")
        kept = f"{writer.episodes} of {asked}, {counted(writer.frames, 'frame')}"
        log.warning("%s: interrupted, kept %s; record into a new folder for all of them", path, kept)
        raise
    rates = {task: float(np.mean(flags)) for task, flags in successes.items()}
    return RecordSummary(path, writer.episodes, writer.frames, time.perf_counter() - start, rates)


def discard(path: Path) -> None:
    """Remove the recording at ``path``, videos and actions."""
    shutil.rmtree(path)
    actions_path(path).unlink(missing_ok=True)


def _roll_all(
    config: RunConfig, writer: VideoWriter, actions: ActionWriter, on_frames: Callable[[int], None]
) -> dict[str, list[bool]]:
    """Record all episodes of all tasks and return their successes by task."""
    successes: dict[str, list[bool]] = {task: [] for task in config.record.tasks}
    for index, task in enumerate(config.record.tasks):
        env = make_env(_env_config(config, task), derive_seed(config.seed, "record_env", index))
        try:
            for episode in range(config.record.episodes_per_task):
                video, action, success = _roll(env, config, index, episode, on_frames)
                actions.append(action, video, task)
                writer.append(video, task)
                successes[task].append(success)
        finally:
            env.close()
        log.info("%s: success in %d of %s", task, sum(successes[task]), counted(len(successes[task]), "episode"))
    return successes


def _refuse_earlier_recording(path: Path) -> None:
    """Refuse a path with an earlier recording; the message names videos and actions, which are useless apart."""
    actions = actions_path(path)
    if (path / MANIFEST).exists() and actions.exists():
        raise RunFolderError(
            f"{path} and {actions} hold an earlier recording; choose a new folder name, or delete both first"
        )


def _roll(
    env: PixelEnv, config: RunConfig, task: int, episode: int, on_frames: Callable[[int], None]
) -> tuple[Frames, Actions, bool]:
    """Return frames ``(T, 64, 64, 3)`` and actions ``(T, A)`` of an episode, and whether any of its steps succeeded."""
    rng = generator(config.seed, "record", task, episode)
    with_expert = _expert_acts(config.record, episode)
    observation, _ = env.reset()
    frames, succeeded, ended = [observation["image"]], False, False
    actions: list[Action] = []
    on_frames(1)
    while not ended and len(frames) < config.record.frames_per_episode:
        action = _noisy_expert(env, config.record.noise, rng) if with_expert else _random_action(env, rng)
        observation, _, terminated, truncated, info = env.step(action)
        frames.append(observation["image"])
        actions.append(action)
        succeeded |= info["success"]
        ended = terminated or truncated
        on_frames(1)
    led_to = [np.zeros_like(actions[0]), *actions]  # row t led to frame t; no action led to the first frame
    return np.stack(frames), np.stack(led_to), succeeded


def _expert_acts(config: RecordConfig, episode: int) -> bool:
    """Return whether the expert acts in an episode; ``mixed`` alternates, starting with the expert."""
    return config.policy == "expert" or (config.policy == "mixed" and episode % 2 == 0)


def _random_action(env: PixelEnv, rng: np.random.Generator) -> Action:
    return rng.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)


def _noisy_expert(env: PixelEnv, noise: float, rng: np.random.Generator) -> Action:
    """Return the expert's action plus Gaussian noise of ``noise`` times the action range, which is 2."""
    action = env.expert_action() + rng.normal(0.0, 2.0 * noise, env.action_space.shape)
    return np.clip(action, -1.0, 1.0).astype(np.float32)


def _env_config(config: RunConfig, task: str) -> EnvConfig:
    return config.env.model_copy(update={"task": task})


def _attributes(config: RunConfig) -> dict[str, Any]:
    """Create an environment of every task and return the attributes of the store.

    Attributes that all environments share (camera, render quality, ...) are at the top level, others are by task.
    """
    environments: dict[str, dict[str, Any]] = {}
    for index, task in enumerate(config.record.tasks):
        path = f"record.tasks.{index}"
        check_task(task, path)
        env = make_env(_env_config(config, task), seed=0)
        env.close()
        if config.record.policy != "random" and not env.has_expert:
            raise ConfigError(f"{path}={task}: has no scripted expert; set record.policy=random, or leave it out")
        environments[task] = env.render_attributes
    keys = dict.fromkeys(key for attributes in environments.values() for key in attributes)
    by_task = {key: {task: found.get(key) for task, found in environments.items()} for key in keys}
    shared = {
        key: values if len({str(value) for value in values.values()}) > 1 else next(iter(values.values()))
        for key, values in by_task.items()
    }
    return shared | {"policy": config.record.policy, "noise": config.record.noise, "seed": config.seed}
