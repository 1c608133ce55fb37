"""An environment that breaks as it is told to; in a module of its own, which worker processes import."""

from __future__ import annotations

import ctypes
import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from prelar_ray.config import EnvConfig
from prelar_ray.envs.point_reach import PointReach

STEP = 5
"""Step at which it breaks."""


def hang_in_native_code() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # no interruption reaches Python
    time.sleep(1000)


FAULTS: dict[str, Callable[..., Any]] = {
    "raises": lambda *answer: {}["gripper"],
    "answers NaN": lambda seen, reward, *rest: (seen, float("nan"), *rest),
    "answers a wrong shape": lambda seen, *rest: ({"image": seen["image"][:32]}, *rest),
    "hangs": lambda *answer: time.sleep(1000),
    "hangs in native code": lambda *answer: hang_in_native_code(),
    "is killed": lambda *answer: os.kill(os.getpid(), signal.SIGKILL),
    "crashes": lambda *answer: ctypes.string_at(0),
    "exits": lambda *answer: os._exit(3),
}


class Breaking(PointReach):
    """Point-reach that breaks in the episode of one seed, and leaves a file behind when it is closed."""

    def __init__(self, seed: int, fault: str, seed_at_fault: int, closed: Path | None) -> None:
        super().__init__(1, seed)
        self._fault, self._seed_at_fault, self._closed = fault, seed_at_fault, closed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._breaks = seed == self._seed_at_fault
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        answer = super().step(np.asarray(action))
        return FAULTS[self._fault](*answer) if self._breaks and self._elapsed == STEP else answer

    def close(self) -> None:
        if self._closed:
            (self._closed / uuid.uuid4().hex).touch()


def make_breaking(
    config: EnvConfig, seed: int, *, fault: str = "raises", seed_at_fault: int = -1, closed: Path | None = None
) -> Breaking:
    return Breaking(seed, fault, seed_at_fault, closed)


def make_killing(config: EnvConfig, seed: int, *, seed_at_fault: int) -> PointReach:
    """One whose making kills its process for a seed."""
    if seed == seed_at_fault:
        os.kill(os.getpid(), signal.SIGKILL)
    return PointReach(1, seed)


def make_none(config: EnvConfig, seed: int) -> PointReach:
    from prelar_ray.errors import ConfigError

    raise ConfigError(f"env.camera={config.camera}: no such camera")
