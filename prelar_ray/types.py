"""Shapes, the time convention, and the arrays that travel between roles.

Legend (used in docstrings and in comments such as ``# (B, T, F)``)::

    B sequences         T steps               H imagination horizon     N = B*T imagined starts
    A real action       L latent action       E embedding               D deterministic state
    S stochastic groups K classes per group   F = S*K + D feature       Hpx, Wpx, C image
    V vector

Time convention. Index ``t`` holds observation ``o_t``, the reward and flags received *with* ``o_t`` and the action
that *led to* it, so ``action[0]`` is zero::

    index      0             1             2
    image      o_0           o_1           o_2
    action     0      a_0 -> .      a_1 -> .         action[t] leads from o_{t-1} to o_t
    reward     0             r_1           r_2       received on arriving at o_t
    is_first   1             0             0

Frames stay ``uint8 (T, Hpx, Wpx, C)`` up to the device that computes;
:func:`prelar_ray.models.preprocess.preprocess_image` alone turns them into floats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from prelar_ray.errors import DataError, NonFiniteError

__all__ = [
    "IMAGE_SIZE",
    "Episode",
    "Frames",
    "ImageSize",
    "ObservedSize",
    "SequenceBatch",
    "Vectors",
    "check_frames",
    "no_frames",
]

ImageSize = Literal[32, 64, 128]
"""Height and width of frames, pixels: of all frames of a run, and of a video store."""
ObservedSize = Literal[0, 32, 64, 128]
"""The size of what a run observes: one of :data:`ImageSize`, or 0 for no frames, where it observes vectors alone."""
IMAGE_SIZE: Final = 64
"""The size of the published experiments, pixels."""

Frames = npt.NDArray[np.uint8]
"""Frames, uint8 ``(T, Hpx, Wpx, C)``; Hpx and Wpx are 0 with ``env.image_size=0``."""
Vectors = npt.NDArray[np.float32]
"""Low-dimensional observations, float32 ``(T, V)``; V is 0 without ``env.vector_key``."""


def check_frames(frames: npt.NDArray[Any], source: str, image_size: int | None) -> Frames:
    """Return ``frames`` if they are uint8 ``(T, image_size, image_size, 3)``; None: of any :data:`ImageSize`.

    Raises:
        DataError: wrong type or shape; the message starts with ``source``.
    """
    if frames.dtype != np.uint8:
        raise DataError(f"{source}: frames are {frames.dtype}, expected uint8 in [0, 255]; convert before recording")
    shapes = [(size, size, 3) for size in (get_args(ImageSize) if image_size is None else (image_size,))]
    if frames.ndim != 4 or frames.shape[1:] not in shapes:
        expected = " or ".join(f"(T, {height}, {width}, 3)" for height, width, _ in shapes)
        raise DataError(
            f"{source}: frames have shape {tuple(frames.shape)}, expected {expected}; render or resize to that size"
        )
    return frames


def no_frames(steps: int) -> Frames:
    """Return what stands in the place of frames where none are observed, ``(T, 0, 0, 3)``."""
    return np.zeros((steps, 0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Episode:
    """One finished episode; every array has ``T`` rows, and row 0 is the reset."""

    image: Frames  # (T, Hpx, Wpx, C) uint8
    action: npt.NDArray[np.float32]  # (T, A)
    reward: npt.NDArray[np.float32]  # (T,)
    is_first: npt.NDArray[np.bool_]  # (T,)
    is_terminal: npt.NDArray[np.bool_]  # (T,) true only where the task ended, not where time ran out
    success: npt.NDArray[np.bool_]  # (T,)
    env_index: int  # which environment of the run produced it
    number: int  # counts the episodes of that environment; (env_index, number) is unique in a run
    weight_version: int  # version of the policy at its last step; -1 while acting at random
    vector: Vectors = dataclasses.field(default_factory=lambda: _UNKNOWN)  # (T, V)

    def __post_init__(self) -> None:
        _fill(self)

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def steps(self) -> int:
        """Agent steps taken: rows without the reset."""
        return len(self.reward) - 1

    @property
    def episode_return(self) -> float:
        """Sum of rewards."""
        return float(self.reward.sum())

    @property
    def succeeded(self) -> bool:
        """Meta-World's rule: any step succeeded."""
        return bool(self.success.any())

    @property
    def key(self) -> str:
        """Name that is unique in a run."""
        return f"env{self.env_index:04d}-episode{self.number:06d}"

    def owned(self) -> Episode:
        """Return the episode with its own copies of arrays that are views: a view keeps shared memory occupied."""
        views: dict[str, Any] = {
            field.name: value.copy()
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), np.ndarray) and not value.flags.writeable
        }
        return replace(self, **views)

    def validate(self) -> Episode:
        """Return self if shapes agree and all numbers are finite.

        Raises:
            DataError: a shape or type is wrong.
            NonFiniteError: a reward or action is NaN or infinite; names the tensor and the first bad step.
        """
        # Its environment's size was checked with every step.
        check_frames(self.image, self.key, None if self.image.size else 0)
        length = len(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray) and len(value) != length:
                raise DataError(f"{self.key}: {field.name} has {len(value)} rows, reward has {length}")
        for name, value in (("reward", self.reward), ("action", self.action), ("vector", self.vector)):
            finite = np.isfinite(value.reshape(length, -1)).all(axis=1)
            if not finite.all():
                step = int(np.argmin(finite))
                raise NonFiniteError(f"{self.key}: {name}[{step}] is {value[step]}; check the environment's {name}")
        return self


@dataclass(frozen=True)
class SequenceBatch:
    """``B`` segments of ``T`` steps, as sampled from the replay buffer."""

    image: Frames  # (B, T, Hpx, Wpx, C) uint8
    action: npt.NDArray[np.float32]  # (B, T, A)
    reward: npt.NDArray[np.float32]  # (B, T)
    is_first: npt.NDArray[np.bool_]  # (B, T)
    is_terminal: npt.NDArray[np.bool_]  # (B, T)
    vector: Vectors = dataclasses.field(default_factory=lambda: _UNKNOWN)  # (B, T, V)

    def __post_init__(self) -> None:
        _fill(self)

    @property
    def shape(self) -> tuple[int, int]:
        """``(B, T)``."""
        return self.reward.shape[0], self.reward.shape[1]

    def split(self, counts: Sequence[int]) -> tuple[SequenceBatch, ...]:
        """Split the rows into consecutive parts of ``counts`` rows, as views."""
        stops = np.cumsum(counts)[:-1]
        shares = zip(*(np.split(array, stops) for array in vars(self).values()), strict=True)
        return tuple(SequenceBatch(*share) for share in shares)

    @classmethod
    def joined(cls, parts: Sequence[SequenceBatch]) -> SequenceBatch:
        """Concatenate the rows of several batches, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate(arrays) for arrays in zip(*(vars(part).values() for part in parts), strict=True)))


_UNKNOWN: Vectors = np.zeros(0, np.float32)
"""In the place of vectors that are not given."""


def _fill(of: Episode | SequenceBatch) -> None:
    """Give what has no vectors some without numbers, so that all arrays have as many rows."""
    if of.vector is _UNKNOWN:
        object.__setattr__(of, "vector", np.zeros((*of.reward.shape, 0), np.float32))
