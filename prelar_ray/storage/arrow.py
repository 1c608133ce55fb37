"""Arrays in one Arrow IPC file: written atomically, read back memory-mapped without a copy.

A file holds one record batch of ``T`` rows. An array ``(T,)`` is a plain column, an array ``(T, ...)`` a column of
fixed-shape tensors: each column is one contiguous buffer with a free NumPy view. Arrow packs booleans into bits, which
cannot be viewed; they are stored as uint8, and the column's metadata records the type.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prelar_ray.errors import DataError
from prelar_ray.storage.files import atomic_file

__all__ = ["FileInfo", "checksum", "read_arrays", "write_arrays"]

_DTYPES = frozenset(np.dtype(name) for name in ("uint8", "int64", "float32", "float64", "bool"))
_BOOLEAN = {b"dtype": b"bool"}
"""Metadata of a uint8 column that holds booleans."""


@dataclass(frozen=True)
class FileInfo:
    """Size and checksum of a written file."""

    bytes: int  # size of the file
    sha256: str  # of the whole file, hexadecimal


def write_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]], metadata: dict[str, str]) -> FileInfo:
    """Write arrays ``(T, ...)`` of uint8, int64, float32, float64 or bool, and the file's metadata, atomically.

    Raises:
        DataError: an array has another type, no rows, an empty dimension or another ``T``; or the disk is full.
    """
    _check(path, arrays)
    columns = [_to_column(array) for array in arrays.values()]
    schema = pa.schema(
        [
            pa.field(name, column.type, nullable=False, metadata=_BOOLEAN if array.dtype == np.bool_ else None)
            for (name, array), column in zip(arrays.items(), columns, strict=True)
        ],
        metadata=metadata,
    )
    with atomic_file(path) as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    with contextlib.suppress(OSError):  # the file is whole; some network file systems refuse to flush a folder
        _flush_folder(path.parent)
    return FileInfo(bytes=path.stat().st_size, sha256=checksum(path))


def read_arrays(path: Path, copy: bool = False) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Return the arrays and the metadata of a file written by :func:`write_arrays`.

    The arrays are read-only views of the memory-mapped file, valid while they are referenced, even after the file is
    deleted; with ``copy`` they own their memory and are writable.

    Raises:
        DataError: the file is missing, truncated or of another format. Flipped bits in the data are not detected;
            compare :func:`checksum`.
    """
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            if reader.num_record_batches != 1:
                raise ValueError(f"it holds {reader.num_record_batches} record batches, expected 1")
            batch = reader.get_batch(0)
        batch.validate()  # a damaged length must not let a view reach beyond its buffer
        arrays = {field.name: _to_array(field, batch.column(i)) for i, field in enumerate(batch.schema)}
        metadata = {key.decode(): value.decode() for key, value in (batch.schema.metadata or {}).items()}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; restore it from a copy or write it again") from error
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: truncated, damaged or not an Arrow file of arrays ({reason}); restore it") from error
    return {name: array.copy() if copy else array for name, array in arrays.items()}, metadata


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal. The file is streamed, and other threads keep running.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; restore it from a copy") from error


def _check(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Raise DataError unless every array can be a column and all have the same number of rows."""
    rows = {array.shape[:1] for array in arrays.values()}
    if len(rows) != 1:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise DataError(f"{path}: arrays must have the same number of rows, got {shapes}")
    for name, array in arrays.items():
        if array.dtype not in _DTYPES:
            allowed = ", ".join(sorted(map(str, _DTYPES)))
            raise DataError(f"{path}: {name} is {array.dtype}, expected one of {allowed}; convert it")
        if array.ndim == 0 or array.size == 0:
            raise DataError(f"{path}: {name} has shape {array.shape}, expected (T, ...) without an empty dimension")


def _to_column(array: npt.NDArray[Any]) -> pa.Array:
    """Return an Arrow array that shares the memory of a contiguous ``array``."""
    stored = array.view(np.uint8) if array.dtype == np.bool_ else array
    values = pa.array(stored.reshape(-1))
    shape = array.shape[1:]
    if not shape:
        return values
    rows = pa.FixedSizeListArray.from_arrays(values, int(np.prod(shape)))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(values.type, shape), rows)


def _to_array(field: pa.Field, column: pa.Array) -> npt.NDArray[Any]:
    """Return a view of a column, in the type it was written with."""
    if isinstance(column, pa.FixedShapeTensorArray):
        view: npt.NDArray[Any] = column.to_numpy_ndarray()
    else:
        view = column.to_numpy(zero_copy_only=True)
    return view.view(np.bool_) if field.metadata == _BOOLEAN and view.dtype == np.uint8 else view


def _flush_folder(folder: Path) -> None:
    """Flush a folder, so that the new name of a renamed file survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
