"""Where a camera stands and what it looks at."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from prelar_ray.config.component import Component

__all__ = ["Camera", "CameraPose"]

Number = Annotated[float, Field(allow_inf_nan=False)]
Point = tuple[Number, Number, Number]


class CameraPose(Component):
    """A camera that stands still in the world, z upwards."""

    position: Point
    """Where it is, in the simulator's units: metres."""
    look_at: Point | None = None
    """Point in the middle of its pictures; the horizon is level."""
    quaternion: tuple[Number, Number, Number, Number] | None = None
    """Instead of look_at: orientation (w, x, y, z). It turns a camera that looks down, with y at the top."""
    fov: Annotated[float, Field(gt=0, lt=180)] = 45.0
    """Vertical field of view, degrees."""

    @model_validator(mode="after")
    def _looks_somewhere(self) -> Self:
        if (self.look_at is None) == (self.quaternion is None):
            raise ValueError("a pose has either look_at or quaternion")
        if self.look_at == self.position:
            raise ValueError("look_at is the position; it must be another point")
        if self.quaternion is not None and not any(self.quaternion):
            raise ValueError("quaternion is zero; (1, 0, 0, 0) looks down")
        return self


def _as_camera(value: Any) -> Any:
    """Return a mapping as a pose, so that mistakes are named as one of its keys.

    Raises:
        ValueError: what is wrong with it.
    """
    if isinstance(value, str | CameraPose):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError("string_type", "must be text, or a mapping with a position")
    try:
        return CameraPose.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{key}: " for key in first["loc"][:1])
        raise ValueError(
            f"{where}{first['msg'].removeprefix('Value error, ')}; a pose is such as "
            "{position: [1, 1, 1], look_at: [0, 0, 0], fov: 45}"
        ) from error


Camera = Annotated[str | CameraPose, BeforeValidator(_as_camera)]
"""A camera by name or number, or a pose."""
