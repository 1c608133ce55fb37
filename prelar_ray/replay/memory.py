"""How much memory there is, and how much of it the replay takes."""

from __future__ import annotations

from pathlib import Path

import psutil

from prelar_ray.config import RunConfig
from prelar_ray.errors import ResourceError

__all__ = ["GIB", "check_replay_fits", "memory_limit", "replay_bytes", "step_bytes"]

GIB = 2**30
NUMBERS = 16
"""Of action, reward and flags in a step, about."""


def memory_limit() -> int:
    """Return the bytes of memory this process may use: the machine's, or its control group's if that is less."""
    limit = int(psutil.virtual_memory().total)
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = min(limit, int(Path(file).read_text()))
        except (OSError, ValueError):  # no control group, or "max"
            continue
    return limit


def step_bytes(config: RunConfig) -> int:
    """Bytes of the frame that a step of experience holds, whose numbers are a hundredth of that; or of them alone."""
    return config.env.image_size**2 * 3 or 4 * (config.env.vector_size + NUMBERS)


def replay_bytes(config: RunConfig) -> int:
    """Bytes that one shard of the replay comes to hold: its capacity, or the run if that is shorter."""
    steps = min(config.replay.capacity_steps, config.finetune.env_steps // config.env.action_repeat)
    return steps // config.replay.shards * step_bytes(config)


def check_replay_fits(config: RunConfig, limit: int, of: str) -> None:
    """Make sure that a shard of the replay fits into ``limit`` bytes, those ``of`` some machine.

    Raises:
        ResourceError: it does not; with the arithmetic.
    """
    needed, replay = replay_bytes(config), config.replay
    if needed > limit:
        half = int(limit / 2 / step_bytes(config)) * replay.shards
        raise ResourceError(
            f"replay.capacity_steps={replay.capacity_steps} in replay.shards={replay.shards}: a process would come to "
            f"hold {needed / GIB:.3g} GiB of experience, {of} has {limit / GIB:.3g} GiB; "
            f"replay.capacity_steps={half} takes half of that, or spread the replay over nodes with replay.shards"
        )
