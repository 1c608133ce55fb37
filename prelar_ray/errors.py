"""Errors a user can act on.

Every command catches :class:`PrelarError`, prints its message without a traceback and exits with the class's
``exit_code``: 2 where settings, files or folders cannot be used, 1 where a run failed. A message names the file, key or
tensor, what was expected and what to do.
"""

from __future__ import annotations

from typing import ClassVar

from prelar_ray.roles import RoleId

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EnvironmentFailure",
    "FrameFailure",
    "NoImageError",
    "NonFiniteError",
    "OfficialCheckpointError",
    "PrelarError",
    "RanksDiverged",
    "RenderingError",
    "ResourceError",
    "RewardFailure",
    "RoleDied",
    "RunFolderError",
    "SuccessFailure",
    "UsageError",
    "VectorFailure",
]


class PrelarError(Exception):
    """Base of all errors that are reported as one clear message."""

    exit_code = 1


class ConfigError(PrelarError):
    """A configuration key or value is wrong; the message starts with its dotted path."""

    exit_code = 2


class NoImageError(ConfigError):
    """An environment has no image to see."""

    vector_settings = ""
    """Settings with which its vector is seen instead, ``KEY=VALUE`` each; empty where it has none."""


class RunFolderError(PrelarError):
    """The output folder cannot be used as asked (it holds another run, is not writable, ...)."""

    exit_code = 2


class UsageError(PrelarError):
    """A command was given a run, file or option that it cannot work on."""

    exit_code = 2


class DataError(PrelarError):
    """A video store, replay segment, episode or batch is missing, damaged or of the wrong shape."""

    exit_code = 2


class CheckpointError(PrelarError):
    """A checkpoint is missing, damaged, unsafe to load, or of another configuration."""

    exit_code = 2


class OfficialCheckpointError(CheckpointError):
    """A file to import was not written by the published code, or a run does not fit the published layout."""


class NonFiniteError(PrelarError):
    """A loss, gradient, reward or action became NaN or infinite."""


class RanksDiverged(PrelarError):
    """Learners that share every update no longer hold the same parameters."""


class EnvironmentFailure(PrelarError):
    """An environment raised, hung, or returned something that is not an observation."""

    part: ClassVar[str] = ""
    """What of its answer is wrong, as the doctor's checks name it; empty where it is none of those."""


class FrameFailure(EnvironmentFailure):
    """An environment drew something that is no frame, or a frame of another size than before."""

    part = "image"


class VectorFailure(EnvironmentFailure):
    """An environment showed a vector of another size than it declares."""

    part = "vector"


class RewardFailure(EnvironmentFailure):
    """An environment gave a reward that is no number."""

    part = "reward"


class SuccessFailure(EnvironmentFailure):
    """An environment said of success what is neither true nor false."""

    part = "success"


class RenderingError(PrelarError):
    """Headless rendering does not work; the message names what to install or set."""


class ResourceError(PrelarError):
    """The machine or cluster lacks a requested resource."""


class RoleDied(PrelarError):
    """The process of a role (collector, replay, learner, evaluator) ended unexpectedly."""

    def __init__(self, role: RoleId | None, reason: str) -> None:
        super().__init__(f"{role or 'a role'} died: {reason}")
        self.role, self.reason = role, reason

    def __reduce__(self) -> tuple[type[RoleDied], tuple[RoleId | None, str]]:
        return type(self), (self.role, self.reason)
