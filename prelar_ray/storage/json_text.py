"""JSON from files that may have come from anywhere: read strictly and within bounds, and written with a checksum.

Every object that is written carries ``checksum``, that of the rest, by which readers notice damage that leaves
valid JSON, such as a flipped digit.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from typing import Any

from prelar_ray.wording import printable

__all__ = ["CHECK", "DEPTH", "DIGITS", "LARGEST", "finite_or_null", "parse_json", "take_check", "with_check"]

CHECK = "checksum"
"""Key of the checksum."""
DEPTH = 64
"""Most objects and lists within each other."""
DIGITS = 40
"""Most digits of a whole number; states of random generators have 39."""
LARGEST = 1e100
"""Largest magnitude of a number with a fraction."""

_MARKS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def parse_json(text: bytes | str, finite: bool = True) -> Any:
    """Return the value that JSON ``text`` describes.

    Args:
        text: in UTF-8.
        finite: refuse NaN and what is larger than :data:`LARGEST`; without, they are read as NaN and infinity.

    Raises:
        ValueError: no JSON, no UTF-8, a key given twice, text that is no Unicode, more than :data:`DEPTH` levels, or a
            number that is not finite or has more digits than any of this project.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    _check_depth(text)
    value = (_FINITE if finite else _ANY).decode(text)
    if "\\u" in text:  # half a pair of surrogates is no text, and could never be written
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("half of a surrogate pair, which is no text") from error
    return value


def with_check(content: dict[str, Any]) -> dict[str, Any]:
    """Return ``content`` with its checksum, to be written as JSON."""
    return {**content, CHECK: _checksum(json.loads(json.dumps(content)))}


def take_check(content: Any) -> bool:
    """Remove the checksum from what was read; return whether it is right or, as in older files, missing."""
    if not isinstance(content, dict) or CHECK not in content:
        return True
    return bool(content.pop(CHECK) == _checksum(content))


def _checksum(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x}"


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEPTH:
        return
    depth = 0
    for found in _MARKS.finditer(text):
        mark = found[0]
        depth += (mark in "[{") - (mark in "]}")
        if depth > DEPTH:
            raise ValueError(f"nested more than {DEPTH} levels deep")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"key {printable(twice)!r} is given twice")
    return found


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _fraction(text: str) -> float:
    value = float(text)
    if not abs(value) <= LARGEST:
        raise ValueError(f"the number {printable(text)} is too large")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _any_fraction(text: str) -> float:
    value = float(text)
    return value if abs(value) <= LARGEST else math.copysign(math.inf, value)


_FINITE = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_float=_fraction, parse_constant=_constant)
_ANY = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_float=_any_fraction)


def finite_or_null(value: Any) -> Any:
    """Return a JSON-able value with NaN and infinities as None, which is what JSON has for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite_or_null(inner) for key, inner in value.items()}
    return [finite_or_null(inner) for inner in value] if isinstance(value, list | tuple) else value
