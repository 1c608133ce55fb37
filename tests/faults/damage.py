"""Seeded damage of a file: what disks, kills, other programs and other people do to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

Damage = Callable[[bytes, np.random.Generator], bytes]

BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % before] * 9))
    for before, name in zip(b"abcdefgh", b"bcdefghi", strict=True)
)


def _place(content: bytes, rng: np.random.Generator) -> int:
    return int(rng.integers(len(content))) if content else 0


def truncated(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: _place(content, rng)]


def emptied(content: bytes, rng: np.random.Generator) -> bytes:
    return b""


def zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    return bytes(len(content))


def zeroed_in_part(content: bytes, rng: np.random.Generator) -> bytes:
    start = _place(content, rng)
    length = min(len(content) - start, 1 + int(rng.integers(64)))
    return content[:start] + bytes(length) + content[start + length :]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(1 + int(rng.integers(3))):
        changed[_place(content, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def garbled(content: bytes, rng: np.random.Generator) -> bytes:
    start = _place(content, rng)
    return content[:start] + rng.bytes(20) + content[start:]


def repeated(content: bytes, rng: np.random.Generator) -> bytes:
    """A line is there twice."""
    lines = content.splitlines(keepends=True)
    at = int(rng.integers(len(lines)))
    return b"".join([*lines[: at + 1], *lines[at:]])


def without_a_line(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[int(rng.integers(len(lines)))]
    return b"".join(lines)


def in_utf_16(content: bytes, rng: np.random.Generator) -> bytes:
    return content.decode("latin-1").encode("utf-16")


def with_a_mark(content: bytes, rng: np.random.Generator) -> bytes:
    return b"\xef\xbb\xbf" + content


def in_latin_1(content: bytes, rng: np.random.Generator) -> bytes:
    start = _place(content, rng)
    return content[:start] + b"\xe9" + content[start:]


def nested(content: bytes, rng: np.random.Generator) -> bytes:
    return b"[" * 50_000


def of_aliases(content: bytes, rng: np.random.Generator) -> bytes:
    return BOMB


def another(content: bytes, rng: np.random.Generator) -> bytes:
    """The file of another program."""
    return [b"PK\x03\x04" + rng.bytes(50), b"\x89PNG\r\n", b"hello\n", b"null", b"[]", b"{}", b"42", b'"text"'][
        int(rng.integers(8))
    ]


BYTES: tuple[Damage, ...] = (truncated, emptied, zeroed, zeroed_in_part, flipped, flipped, garbled, another)
TEXT: tuple[Damage, ...] = (*BYTES, repeated, without_a_line, in_utf_16, with_a_mark, in_latin_1, nested)

ODD: tuple[Any, ...] = (
    *("123", "false", "", "a" * 20_000, "\u2028\x1b[2J", r"$\frac{", "../../etc/passwd", "a\0b", "=1+1"),
    *(None, True, -1, 0, 1.5, 2**63, 10**39, [], {}, ["false"], {"a": {"b": 1}}),
)
"""What another type, or a number beyond all bounds, may be."""
RAW = (b"9" * 400, b"1e999", b"-1e308", b"NaN", b"Infinity", b"[" * 500 + b"]" * 500, b'"\\ud800"', b"0x10")
"""What JSON cannot or should not say."""


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, part in inner for leaf in _leaves(part, (*path, key)))]


def _changed(value: Any, path: tuple[Any, ...], change: Callable[[dict[Any, Any] | list[Any], Any], None]) -> Any:
    target = value
    for key in path[:-1]:
        target = target[key]
    if not path:
        return None
    change(target, path[-1])
    return value


def in_json(change: Damage) -> Damage:
    """The damage of one JSON value: of the file, or of one of its lines."""

    def damage(content: bytes, rng: np.random.Generator) -> bytes:
        try:
            json.loads(content)
        except ValueError:
            lines = content.splitlines()
            at = int(rng.integers(len(lines)))
            lines[at] = change(lines[at], rng)
            return b"\n".join(lines) + b"\n"
        return change(content, rng)

    damage.__name__ = change.__name__
    return damage


@in_json
def of_another_type(content: bytes, rng: np.random.Generator) -> bytes:
    value = json.loads(content)
    leaves = _leaves(value)
    odd = ODD[int(rng.integers(len(ODD)))]

    def change(target: Any, key: Any) -> None:
        target[key] = odd

    return json.dumps(_changed(value, leaves[int(rng.integers(len(leaves)))], change)).encode()


@in_json
def without_a_key(content: bytes, rng: np.random.Generator) -> bytes:
    value = json.loads(content)
    leaves = _leaves(value)

    def change(target: Any, key: Any) -> None:
        del target[key]

    return json.dumps(_changed(value, leaves[int(rng.integers(len(leaves)))], change)).encode()


@in_json
def with_raw_text(content: bytes, rng: np.random.Generator) -> bytes:
    value = json.loads(content)
    leaves = _leaves(value)

    def change(target: Any, key: Any) -> None:
        target[key] = "\x01HERE"

    text = json.dumps(_changed(value, leaves[int(rng.integers(len(leaves)))], change)).encode()
    return text.replace(rb'"\u0001HERE"', RAW[int(rng.integers(len(RAW)))])


@in_json
def with_a_key_twice(content: bytes, rng: np.random.Generator) -> bytes:
    value = json.loads(content)
    if not isinstance(value, dict) or not value:
        return content
    key = sorted(value)[int(rng.integers(len(value)))]
    return content.rstrip().removesuffix(b"}") + b", " + json.dumps(key).encode() + b": 3}\n"


JSON: tuple[Damage, ...] = (*TEXT, of_another_type, of_another_type, without_a_key, with_raw_text, with_a_key_twice)
YAML: tuple[Damage, ...] = (*TEXT, of_aliases)
