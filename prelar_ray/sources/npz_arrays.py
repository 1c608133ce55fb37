"""Arrays of npz files, without ever opening a pickle."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from prelar_ray.errors import DataError
from prelar_ray.sources.files import check_readable

__all__ = ["Headers", "load", "read_headers"]

Headers = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Shape and type of each array of a file, by its key."""

_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
)
"""What numpy and zipfile raise for files that are cut, changed, or of another kind."""


def read_headers(path: Path) -> Headers:
    """Return what arrays a file has, without reading them.

    Raises:
        DataError: it is missing, damaged, a pickle or another kind of file.
    """
    check_readable(path)
    with path.open("rb") as file:
        if file.read(1) == b"\x80":
            raise DataError(f"{path}: a pickle, which is never opened; store its arrays with numpy.savez_compressed")
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    first = np.lib.format.read_magic(member) == (1, 0)
                    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(member)
                    headers[name.removesuffix(".npy")] = shape, dtype
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return headers


def load(path: Path, key: str) -> npt.NDArray[Any]:
    """Return one array ``(T, ...)``.

    Raises:
        DataError: it is missing, damaged, without rows, or a pickle.
    """
    check_readable(path)
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("no archive, or cut short")
        with np.load(path, allow_pickle=False) as file:
            if key not in file.files:
                raise DataError(f"{path}: no {key} among {', '.join(file.files)}; leave the file out")
            array: npt.NDArray[Any] = file[key]
    except _DAMAGE as error:
        if "allow_pickle" in str(error):
            raise DataError(f"{path}: {key} is a pickle, which is never opened; store it as numbers") from error
        raise _damaged(path, error) from error
    if array.ndim == 0 or not len(array):
        raise DataError(f"{path}: {key} has shape {array.shape}, expected rows (T, ...); leave the file out")
    return array


def _damaged(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path}: not a readable npz file ({error}); restore it from a copy")
