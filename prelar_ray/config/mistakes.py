"""What is wrong with a configuration, in one line per mistake that starts with the dotted path."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

from pydantic_core import ErrorDetails

from prelar_ray.config.paths import choices, field_type, fields, setting_paths
from prelar_ray.config.run import RunConfig

__all__ = ["describe", "nearest", "show"]


def describe(mistake: ErrorDetails) -> str:
    """Return one line for one of pydantic's errors."""
    location, value = mistake["loc"], mistake["input"]
    kind, context = mistake["type"], mistake.get("ctx", {})
    path = ".".join(map(str, location))
    if kind == "value_error":
        is_rule = not location or fields(field_type(location))  # a section's rule names the keys that contradict
        return str(context["error"]) if is_rule else f"{path}: {context['error']}"
    if kind == "extra_forbidden":
        return _describe_unknown(path, value)
    match kind:
        case "greater_than_equal":
            allowed = f"must be >= {context['ge']:g}"
        case "greater_than":
            allowed = f"must be > {context['gt']:g}"
        case "less_than_equal":
            allowed = f"must be <= {context['le']:g}"
        case "invalid_key":
            return f"{path}: a key must be text"
        case "less_than":
            allowed = f"must be < {context['lt']:g}"
        case "literal_error":
            known = choices(field_type(location))
            allowed = f"must be one of {', '.join(known)}{nearest(str(value), known)}"
        case "int_type" | "int_from_float":
            whole = isinstance(value, float) and value.is_integer()
            allowed = f"must be a whole number{f'; write {int(value)}' if whole else ''}"
        case "float_type":
            allowed = "must be a number"
        case "finite_number":
            allowed = "must be finite"
        case "bool_type":
            allowed = "must be true or false"
        case "string_type":
            allowed = "must be text; write it in quotes"
        case "dict_type":
            allowed = "must be a mapping such as {lr: 3e-4}"
        case "tuple_type":
            allowed = "must be a list such as [a, b]"
        case "model_type":
            allowed = f"must be a section with the keys {', '.join(fields(field_type(location)))}"
        case _:
            allowed = mistake["msg"]
    is_text = ", not text" if isinstance(value, str) and kind in ("int_type", "float_type", "bool_type") else ""
    return f"{path}={show(value)}: {allowed}{is_text}"


def _describe_unknown(path: str, value: Any) -> str:
    if isinstance(value, dict) and value:  # an unknown section: name what was meant inside it
        return "\n".join(_describe_unknown(f"{path}.{key}", inner) for key, inner in value.items())
    section, _, name = path.rpartition(".")
    prefix = f"{section}." if section else ""
    siblings = list(fields(field_type(section.split(".")) if section else RunConfig))
    paths = list(setting_paths())
    if elsewhere := [known for known in paths if known.rpartition(".")[2] == name]:
        hint = f"; nearest: {difflib.get_close_matches(path, elsewhere, n=1, cutoff=0)[0]}"
    else:
        hint = nearest(name, siblings, prefix) or ("" if section and siblings else nearest(path, paths))
    if not hint and siblings:
        hint = f"; known: {', '.join(prefix + sibling for sibling in siblings)}"
    return f"{path}={show(value)}: unknown key{hint}"


def nearest(word: str, known: Sequence[str], prefix: str = "") -> str:
    """Return ``; nearest: WORD`` for the known word that resembles ``word``, or nothing where none does."""
    found = difflib.get_close_matches(word, known, n=1)
    return f"; nearest: {prefix}{found[0]}" if found else ""


def show(value: Any) -> str:
    """Return a value as the user would write it, on one short line."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
