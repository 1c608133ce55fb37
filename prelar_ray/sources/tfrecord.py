"""TFRecord files and the ``tf.train.Example`` in their records, without TensorFlow.

A record is ``uint64`` length, masked CRC-32C of the length, the bytes, masked CRC-32C of the bytes; both are checked.
An Example is a protocol buffer, a map from keys to lists of bytes, floats or integers; here bytes and floats are read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from prelar_ray.errors import DataError
from prelar_ray.sources.crc32c import crc32c
from prelar_ray.sources.files import check_readable

__all__ = ["Example", "count_records", "masked_crc", "records"]

_HEADER: Final = struct.Struct("<QI")
_FOOTER: Final = struct.Struct("<I")
_VARINT, _EIGHT_BYTES, _MESSAGE, _FOUR_BYTES = 0, 1, 2, 5  # types on the wire


def masked_crc(data: bytes | memoryview) -> int:
    """Return the checksum as TFRecord stores it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path, wanted: Collection[int] | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield the wanted records, or all, with their numbers from 0.

    Raises:
        DataError: the file is missing, cut short or damaged; says in which record. Those before are good.
    """
    check_readable(path)
    with path.open("rb") as file:
        for number, length in _lengths(path, file):
            if wanted is not None and number not in wanted:
                file.seek(length + _FOOTER.size, os.SEEK_CUR)
                continue
            data = file.read(length)
            if masked_crc(data) != _FOOTER.unpack(file.read(_FOOTER.size))[0]:
                raise DataError(f"{path}: record {number} is damaged (checksum); restore it from a copy")
            yield number, data


def count_records(path: Path) -> int:
    """Return how many records a file has, by the lengths of all.

    Raises:
        DataError: it is missing, cut short or damaged.
    """
    check_readable(path)
    count = 0
    with path.open("rb") as file:
        for _, length in _lengths(path, file):
            file.seek(length + _FOOTER.size, os.SEEK_CUR)
            count += 1
    return count


def _lengths(path: Path, file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield number and length of each record; the caller moves ``file`` behind it before asking for the next."""
    size, number = os.fstat(file.fileno()).st_size, 0
    while (position := file.tell()) < size:
        header = file.read(_HEADER.size)
        if len(header) == _HEADER.size:
            length, crc = _HEADER.unpack(header)
            if masked_crc(header[:8]) != crc:
                what = f"damaged in record {number} (checksum)" if number else "not a TFRecord file"
                raise DataError(f"{path}: {what}; restore it from a copy")
            if position + _HEADER.size + length + _FOOTER.size <= size:
                yield number, length
                number += 1
                continue
        raise DataError(f"{path}: cut short in record {number}; restore it from a copy")


class Example:
    """One ``tf.train.Example``; values are read when they are asked for.

    Attributes:
        name: where it comes from, for errors.
    """

    def __init__(self, record: bytes, name: str) -> None:
        """Find the keys.

        Raises:
            DataError: the record is no Example.
        """
        self.name = name
        try:
            self._features = dict(
                _entry(entry) for features in _messages(memoryview(record), 1) for entry in _messages(features, 1)
            )
        except ValueError as error:
            raise DataError(f"{name}: no tf.train.Example ({error}); restore it from a copy") from error

    def keys(self) -> list[str]:
        """Return the keys, sorted."""
        return sorted(self._features)

    def byte_strings(self, key: str) -> list[memoryview]:
        """Return the values under ``key``, none if there is no such key or they are numbers.

        Raises:
            DataError: they are damaged.
        """
        return [value for values in self._lists(key, 1) for value in self._parsed(key, values, 1)]

    def floats(self, key: str) -> npt.NDArray[np.float32]:
        """Return the values under ``key`` ``(N,)``, none if there is no such key or they are not floats.

        Raises:
            DataError: they are damaged.
        """
        parts = [part for values in self._lists(key, 2) for part in self._parsed(key, values, 1)]
        if any(len(part) % 4 for part in parts):
            raise DataError(f"{self.name}: {key}: no tf.train.Example (floats); restore it from a copy")
        return np.frombuffer(b"".join(parts), "<f4").astype(np.float32)

    def _lists(self, key: str, kind: int) -> list[memoryview]:
        """Return the lists of a kind: 1 bytes, 2 floats."""
        return self._parsed(key, self._features.get(key, memoryview(b"")), kind)

    def _parsed(self, key: str, message: memoryview, field: int) -> list[memoryview]:
        try:
            return list(_messages(message, field))
        except ValueError as error:
            raise DataError(f"{self.name}: {key}: no tf.train.Example ({error}); restore it from a copy") from error


def _entry(message: memoryview) -> tuple[str, memoryview]:
    keys, values = list(_messages(message, 1)), list(_messages(message, 2))
    return (str(keys[-1], "utf-8") if keys else ""), (values[-1] if values else memoryview(b""))


def _messages(message: memoryview, field: int) -> Iterator[memoryview]:
    """Yield the content of each occurrence of a field, be it a message, bytes, or a number of four bytes.

    Raises:
        ValueError: it does not follow the wire format of protocol buffers.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        if tag & 7 == _VARINT:
            _, position = _varint(message, position)
            continue
        if tag & 7 == _MESSAGE:
            length, position = _varint(message, position)
        elif tag & 7 in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if tag & 7 == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"type {tag & 7}")
        if position + length > len(message):
            raise ValueError("cut short")
        if tag >> 3 == field:
            yield message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a number and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("cut short")
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than ten bytes")
