"""Dotted paths of settings, and what is declared there."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from prelar_ray.config.run import RunConfig

__all__ = ["choices", "field_type", "fields", "setting_paths"]


def setting_paths() -> Iterator[str]:
    """Yield the dotted paths of every section and value."""
    yield from _paths(RunConfig)


def choices(kind: Any) -> list[str]:
    """Return the values of a type that has few, as the user writes them."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if get_origin(kind) is tuple:
        return [f"[{choice}]" for choice in choices(get_args(kind)[0])]
    if get_origin(kind) in (Union, types.UnionType):
        return [choice for inner in get_args(kind) for choice in choices(inner)]
    return []


def field_type(keys: Sequence[str | int]) -> Any:
    """Return the type declared at a dotted path, a number standing for an item of a list; None where there is none."""
    kind: Any = RunConfig
    for key in keys:
        kind = get_args(kind)[0] if get_origin(kind) is tuple and isinstance(key, int) else fields(kind).get(str(key))
    return kind


def fields(kind: Any) -> dict[str, Any]:
    """Return names and types of a section's fields; empty where ``kind`` is not a section."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return {}


def _paths(kind: Any, prefix: str = "") -> Iterator[str]:
    for name, inner in fields(kind).items():
        yield prefix + name
        yield from _paths(inner, f"{prefix}{name}.")
