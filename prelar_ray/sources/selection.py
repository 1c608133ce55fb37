"""Which pictures of an episode are kept: by time stamps, or every N-th."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prelar_ray.errors import ConfigError

__all__ = ["Selection"]

Kept = TypeVar("Kept")


class Selection(BaseModel):
    """Which pictures are kept, and how many an episode may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Pictures per second by time stamps: the nearest is kept, twice where there are too few; None: as they are."""
    every: Annotated[int, Field(ge=1)] = 1
    """Keep every N-th picture."""
    min_frames: Annotated[int, Field(ge=1)] = 2
    """Shorter episodes are left out."""
    max_frames: Annotated[int, Field(ge=1)] = 10_000
    """Longer episodes are cut into pieces of this length."""

    @model_validator(mode="after")
    def _least_is_not_above_most(self) -> Self:
        if self.min_frames > self.max_frames:
            raise ValueError(f"--min-frames {self.min_frames}: above --max-frames {self.max_frames}; lower it")
        return self

    @property
    def keeps_all(self) -> bool:
        """Whether every picture is kept, so that rows of actions still belong to frames."""
        return self.fps is None and self.every == 1

    def select(self, pictures: Iterator[tuple[float | None, Kept]]) -> Iterator[Kept]:
        """Return those that are kept; time stamps never fall.

        Raises:
            ConfigError: a rate is asked for where the source has no time stamps.
        """
        if self.fps is not None:
            return self._by_time(pictures, self.fps)
        return (picture for number, (_, picture) in enumerate(pictures) if number % self.every == 0)

    def _by_time(self, pictures: Iterator[tuple[float | None, Kept]], fps: float) -> Iterator[Kept]:
        """Yield for each moment k / fps the picture nearest to it; the earlier of two that are equally near."""
        moment, previous = 0, None  # the next moment, and the picture before it with its time
        for time, picture in pictures:
            if time is None:
                raise ConfigError("--fps: these pictures have no times; use --every N")
            while previous is not None and moment / fps <= (previous[0] + time) / 2:
                yield previous[1]
                moment += 1
            previous = time, picture
        while previous is not None and moment / fps < previous[0] + 0.5 / fps:
            yield previous[1]
            moment += 1
