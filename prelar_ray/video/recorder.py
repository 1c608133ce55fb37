"""Records videos: runs a scripted or random policy and writes the frames to a video store.

The actions are written to a separate file beside the store, for the probe of the latent actions; with them the motion
of what moves by itself, where an environment has such a thing.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prelar_ray.config import RunConfig
from prelar_ray.envs import check_task, make_env
from prelar_ray.errors import ConfigError, PrelarError, RunFolderError
from prelar_ray.video.actions import ActionWriter, actions_path
from prelar_ray.video.episodes import RecordedEpisode, all_episodes, env_config
from prelar_ray.video.rolling import Roll, roll_locally
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
    """Share of episodes with success at any recorded step, by task; those without success are left out."""


def record(config: RunConfig, path: Path, on_frames: Callable[[int], None], roll: Roll = roll_locally) -> RecordSummary:
    """Run ``config.record.policy`` on ``config.record.tasks`` and write a video store at ``path``, actions beside it.

    Each episode is determined by the run's seed, the position of its task in the list and its number: the files are the
    same bytes, however many processes record. Ctrl-C and failures keep the episodes before the first that is missing,
    and leave the store marked incomplete.

    Args:
        config: of the recording.
        path: new folder of the store.
        on_frames: called with the number of new frames.
        roll: rolls the episodes, here or elsewhere.

    Raises:
        ConfigError: an unknown task or camera, or a task without the requested expert; nothing is written.
        RunFolderError: ``path`` is not an empty or new folder, or actions of an earlier recording lie beside it.
        EnvironmentFailure: an environment raised, or a process that records died; names task and episode.
        RenderingError: rendering does not work.
        DataError: the disk is full.
    """
    start = time.perf_counter()
    _refuse_earlier_recording(path)
    attributes = _attributes(config)
    shard_frames = config.record.shard_frames
    actions = ActionWriter(actions_path(path), shard_frames)
    writer = VideoWriter(path, attributes, shard_frames, image_size=config.env.image_size)
    try:
        with writer, actions:
            successes = _write_all(config, writer, actions, roll(config, all_episodes(config), on_frames))
    except (KeyboardInterrupt, PrelarError) as error:
        asked = counted(len(all_episodes(config)), "episode")
        kept = f"{writer.episodes} of {asked}, {counted(writer.frames, 'frame')}"
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        log.warning("%s: %s, kept %s; record into a new folder for all of them", path, why, kept)
        raise
    rates = {task: float(np.mean(known)) for task, flags in successes.items() if (known := _known(flags))}
    return RecordSummary(path, writer.episodes, writer.frames, time.perf_counter() - start, rates)


def discard(path: Path) -> None:
    """Remove the recording at ``path``, videos and actions."""
    shutil.rmtree(path)
    actions_path(path).unlink(missing_ok=True)


def _write_all(
    config: RunConfig, writer: VideoWriter, actions: ActionWriter, recorded: Generator[RecordedEpisode]
) -> dict[str, list[bool | None]]:
    """Write all episodes and return their successes by task."""
    successes: dict[str, list[bool | None]] = {task: [] for task in config.record.tasks}
    with closing(recorded):
        for episode, rolled in zip(all_episodes(config), recorded, strict=True):
            task = config.record.tasks[episode.task]
            actions.append(rolled.actions, rolled.frames, task, rolled.nuisance)
            writer.append(rolled.frames, task)
            successes[task].append(rolled.succeeded)
            if episode.number == config.record.episodes_per_task - 1:
                count, known = counted(len(successes[task]), "episode"), _known(successes[task])
                log.info("%s: %s", task, f"success in {sum(known)} of {count}" if known else count)
    return successes


def _known(flags: list[bool | None]) -> list[bool]:
    """Return the successes of a task's episodes; none where no episode's environment showed that there is success."""
    return [bool(flag) for flag in flags] if any(flag is not None for flag in flags) else []


def _refuse_earlier_recording(path: Path) -> None:
    """Refuse a path with an earlier recording; the message names videos and actions, which are useless apart."""
    actions = actions_path(path)
    if (path / MANIFEST).exists() and actions.exists():
        raise RunFolderError(
            f"{path} and {actions} hold an earlier recording; choose a new folder name, or delete both first"
        )


def _attributes(config: RunConfig) -> dict[str, Any]:
    """Create an environment of every task and return the attributes of the store.

    Attributes that all environments share (camera, render quality, ...) are at the top level, others are by task.
    """
    environments: dict[str, dict[str, Any]] = {}
    for index, task in enumerate(config.record.tasks):
        path = f"record.tasks.{index}"
        check_task(task, path)
        env = make_env(env_config(config, task), seed=0)
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
