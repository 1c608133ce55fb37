"""The base of every section of a configuration, and the kinds of numbers that sections hold."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema

__all__ = [
    "Component",
    "Fraction",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "Settings",
]

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _as_json(value: Any) -> Any:
    """Return nested sequences as lists: YAML is read with tuples, JSON with lists, and both mean the same.

    Raises:
        ValueError: a number that JSON does not know.
    """
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value:g} is not finite; write a large number")
    return [_as_json(inner) for inner in value] if isinstance(value, list | tuple) else value


Settings = Annotated[dict[str, JsonValue], BeforeValidator(_as_json), WithJsonSchema({"type": "object"})]
"""Settings of another library, by names that are checked where they are used."""


class Component(BaseModel):
    """Base of all parts: frozen, no unknown keys, every field documented by the text below it."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)
