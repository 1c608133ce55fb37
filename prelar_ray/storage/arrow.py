"""Arrays in one Arrow IPC file: written atomically, read back memory-mapped without a copy.

A file holds one record batch of ``T`` rows. An array ``(T,)`` is a plain column, an array ``(T, ...)`` a column of
fixed-shape tensors: each column is one contiguous buffer with a free NumPy view. Arrow packs booleans into bits, which
cannot be viewed; they are stored as uint8, and the column's metadata records the type.

A compressed file holds batches of 32 rows, each compressed by itself, so that a few rows are read without the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prelar_ray.errors import DataError
from prelar_ray.storage.files import atomic_file

__all__ = ["ArrayFile", "Compression", "FileInfo", "checksum", "read_arrays", "write_arrays"]

Compression = Literal["none", "lz4", "zstd"]
"""How the batches of a file are compressed."""

BATCH_ROWS = 32
"""Rows in each batch of a compressed file; the last may have fewer."""

_BATCH_ROWS = b"batch_rows"
"""Key of that number in the file's metadata; a file without it holds one batch."""

_DTYPES = frozenset(np.dtype(name) for name in ("uint8", "int64", "float32", "float64", "bool"))
_BOOLEAN = {b"dtype": b"bool"}
"""Metadata of a uint8 column that holds booleans."""


@dataclass(frozen=True)
class FileInfo:
    """Size and checksum of a written file."""

    bytes: int  # size of the file
    sha256: str  # of the whole file, hexadecimal


def write_arrays(
    path: Path, arrays: dict[str, npt.NDArray[Any]], metadata: dict[str, str], compression: Compression = "none"
) -> FileInfo:
    """Write arrays ``(T, ...)`` of uint8, int64, float32, float64 or bool, and the file's metadata, atomically.

    A compressed file is read with :class:`ArrayFile` only.

    Raises:
        DataError: an array has another type, no rows, an empty dimension or another ``T``; or the disk is full.
    """
    _check(path, arrays)
    rows = len(next(iter(arrays.values())))
    size = rows if compression == "none" else BATCH_ROWS
    batches = ({name: array[i : i + size] for name, array in arrays.items()} for i in range(0, rows, size))
    schema = pa.schema(
        [_to_field(name, array) for name, array in arrays.items()],
        metadata=metadata if compression == "none" else {**metadata, _BATCH_ROWS.decode(): str(size)},
    )
    options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
    with atomic_file(path) as file, pa.ipc.new_file(file, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(pa.record_batch([_to_column(array) for array in batch.values()], schema=schema))
    with contextlib.suppress(OSError):  # the file is whole; some network file systems refuse to flush a folder
        _flush_folder(path.parent)
    return FileInfo(bytes=path.stat().st_size, sha256=checksum(path))


def read_arrays(path: Path, copy: bool = False) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Return the arrays and the metadata of a file written by :func:`write_arrays` without compression.

    The arrays are read-only views of the memory-mapped file, valid while they are referenced, even after the file is
    deleted; with ``copy`` they own their memory and are writable.

    Raises:
        DataError: the file is missing, truncated or of another format. Flipped bits in the data are not detected;
            compare :func:`checksum`.
    """
    with _readable(path):
        reader = _open(path)
        if reader.num_record_batches != 1:
            raise ValueError(f"it holds {reader.num_record_batches} record batches, expected 1")
        arrays, metadata = _to_arrays(reader.get_batch(0)), _to_metadata(reader.schema)
    return {name: array.copy() if copy else array for name, array in arrays.items()}, metadata


class ArrayFile:
    """A file written by :func:`write_arrays`, compressed or not, of which any rows are read. Threads may share it.

    Attributes:
        metadata: of the file.
        shapes: shape ``(T, ...)`` and type of each array, by name.
    """

    def __init__(self, path: Path) -> None:
        """Map the file; of a compressed one, decode the last batch to know its length.

        Raises:
            DataError: as :func:`read_arrays`.
        """
        self._path = path
        self._lock = threading.Lock()
        with _readable(path):
            self._reader = _open(path)
            batches = self._reader.num_record_batches
            self._size = int((self._reader.schema.metadata or {}).get(_BATCH_ROWS, 0))
            if batches < 1 or (batches > 1 and self._size < 1):
                raise ValueError(f"it holds {batches} record batches, expected 1")
            last = _to_arrays(self._reader.get_batch(batches - 1))
            self.metadata = _to_metadata(self._reader.schema)
        self._whole = {} if self._size else last
        before = (batches - 1) * self._size
        self.shapes = {name: ((before + len(array), *array.shape[1:]), array.dtype) for name, array in last.items()}

    def read(self, name: str, start: int, stop: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Return the rows ``start`` to ``stop`` of one array, written into ``out`` if that is given.

        Without ``out``, the rows of an uncompressed file are a read-only view, as in :func:`read_arrays`.

        Raises:
            DataError: a batch cannot be decoded.
        """
        if name in self._whole and out is None:
            return self._whole[name][start:stop]
        if out is None:
            (_, *rest), dtype = self.shapes[name]
            out = np.empty((stop - start, *rest), dtype)
        if name in self._whole:
            out[:] = self._whole[name][start:stop]
            return out
        for first in range(start - start % self._size, stop, self._size):
            rows = self._batch(first // self._size)[name]
            begin, end = max(start, first), min(stop, first + self._size)
            out[begin - start : end - start] = rows[begin - first : end - first]
        return out

    def _batch(self, index: int) -> dict[str, npt.NDArray[Any]]:
        with _readable(self._path), self._lock:
            batch = self._reader.get_batch(index)
            if index < self._reader.num_record_batches - 1 and batch.num_rows != self._size:
                raise ValueError(f"batch {index} has {batch.num_rows} rows, expected {self._size}")
            return _to_arrays(batch)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what reading an Arrow file raises into a DataError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; restore it from a copy or write it again") from error
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: truncated, damaged or not an Arrow file of arrays ({reason}); restore it") from error


def _open(path: Path) -> pa.ipc.RecordBatchFileReader:
    """Return a reader of the mapped file. The mapping lives as long as what is read from it, without a descriptor."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source.read_buffer())


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


def _to_field(name: str, array: npt.NDArray[Any]) -> pa.Field:
    metadata = _BOOLEAN if array.dtype == np.bool_ else None
    return pa.field(name, _to_column(array[:1]).type, nullable=False, metadata=metadata)


def _to_column(array: npt.NDArray[Any]) -> pa.Array:
    """Return an Arrow array that shares the memory of a contiguous ``array``."""
    stored = array.view(np.uint8) if array.dtype == np.bool_ else array
    values = pa.array(stored.reshape(-1))
    shape = array.shape[1:]
    if not shape:
        return values
    rows = pa.FixedSizeListArray.from_arrays(values, int(np.prod(shape)))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(values.type, shape), rows)


def _to_arrays(batch: pa.RecordBatch) -> dict[str, npt.NDArray[Any]]:
    """Return views of the columns of a batch."""
    batch.validate()  # a damaged length must not let a view reach beyond its buffer
    return {field.name: _to_array(field, batch.column(i)) for i, field in enumerate(batch.schema)}


def _to_metadata(schema: pa.Schema) -> dict[str, str]:
    found = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return {key: value for key, value in found.items() if key != _BATCH_ROWS.decode()}


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
