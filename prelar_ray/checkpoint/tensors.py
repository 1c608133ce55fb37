"""Files of tensors from anywhere: read as tensors and plain containers alone, after their sizes were found plausible.

``torch.load(weights_only=True)`` runs no code, but believes every size that a file states. Here an archive may hold no
compressed entries and no more bytes than its file has, all of it has to fit into the free memory, and no tensor may be
larger than its stored numbers are.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

__all__ = ["UnsafeFile", "UnusableFile", "load_tensors"]

ZIP, PICKLE = b"PK", b"\x80"
"""How a file of torch begins: that of torch 1.6 and later, and one of before."""
DEPTH = 32
"""Most containers within each other."""
ALIASES = 4
"""How often the same stored numbers may be there under different names, all tensors taken together."""
HEADERS = 4
"""Pickles before the sizes of the stored numbers in a file of before torch 1.6, with that of the tensors."""


class UnusableFile(ValueError):
    """A file is no file of tensors, is damaged, or states sizes that it does not have."""


class UnsafeFile(ValueError):
    """A file holds other objects than tensors and plain containers; nothing of it was run."""


def load_tensors(path: Path, compare: bool = False) -> Any:
    """Return what ``torch.save`` wrote to a file, on the CPU; dense tensors in plain containers.

    Args:
        path: of the file.
        compare: compare the checksums of its entries, for a file of which none is known elsewhere.

    Raises:
        UnsafeFile: it holds code or other objects, which were not executed.
        UnusableFile: it is damaged, states sizes that it does not have, does not fit into memory, or a tensor has no
            numbers of its own (meta, sparse, quantised, expanded).
        OSError: it cannot be read.
    """
    size = _check_sizes(path)
    if compare:
        _compare(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFile(_objects(error)) from error
    except MemoryError as error:
        raise UnusableFile("it asks for more memory than there is") from error
    except Exception as error:  # torch reports a damaged archive as any of many errors, "Invalid argument" among them
        raise UnusableFile(str(error).partition("\n")[0] or type(error).__name__) from error
    total = 0
    for name, tensor in _tensors(content, ""):
        _check_tensor(name, tensor)
        total += tensor.numel() * tensor.element_size()
        if total > ALIASES * size:
            raise UnusableFile(f"its tensors have more than {ALIASES} times the {size:,} bytes of the file")
    return content


def _check_sizes(path: Path) -> int:
    """Return the size of a file, after checking what it states of its content, without loading it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(2)
    if start == ZIP:
        unpacked = _unpacked(path)
        if unpacked > size:
            raise UnusableFile(f"its entries state {unpacked:,} bytes, more than the {size:,} of the file")
    elif start[:1] == PICKLE:
        _check_pickle(path, size)
    else:
        raise UnusableFile("not a file of PyTorch")
    free = psutil.virtual_memory().available
    if size > free:
        raise UnusableFile(f"{size / 2**30:.1f} GiB do not fit into the {free / 2**30:.1f} GiB of free memory")
    return size


def _unpacked(path: Path) -> int:
    """Return the bytes of all entries of an archive, which torch never compresses."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise UnusableFile(f"no whole archive: {error}") from error
    if packed := next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None):
        raise UnusableFile(f"its entry {packed.filename[:80]!r} is compressed, which PyTorch does not do")
    return sum(entry.file_size for entry in entries)


def _compare(path: Path) -> None:
    """Refuse an archive of which an entry is not what its checksum says; torch does not look at it."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise UnusableFile(f"no whole archive: {error}") from error
    if damaged is not None:
        raise UnusableFile(f"the checksum of its entry {damaged[:80]!r} differs")


def _check_pickle(path: Path, size: int) -> None:
    """Refuse a file of before torch 1.6 that states a number of elements larger than itself."""
    with path.open("rb") as file:
        for header in range(HEADERS):
            try:
                for _, argument, _ in pickletools.genops(file):
                    # The first pickle is a magic number of 80 bits.
                    if header == HEADERS - 1 and isinstance(argument, int) and argument > size:
                        raise UnusableFile(
                            f"it states a size of {argument:,}, more than the {size:,} bytes of the file"
                        )
            except UnusableFile:
                raise
            except Exception:  # no pickle of torch: loading it says what it is
                return


def _tensors(content: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested containers, with where they are."""
    if isinstance(content, Tensor):
        yield name or "it", content
        return
    if depth == DEPTH:
        raise UnusableFile(f"its containers are more than {DEPTH} deep")
    items: Any = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    for key, value in items:
        yield from _tensors(value, f"{name}.{key}" if name else str(key), depth + 1)


def _check_tensor(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is more, or something else, than the numbers that are stored of it."""
    name = name[:200]
    if tensor.device.type != "cpu":
        raise UnusableFile(f"{name} is on the device {tensor.device.type}, without numbers")
    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = "quantised" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        raise UnusableFile(f"{name} is {kind}, expected a dense tensor")
    needed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if needed > stored:
        raise UnusableFile(
            f"{name} of shape {tuple(tensor.shape)} has {needed:,} bytes, of which {stored:,} are stored"
        )


def _objects(error: pickle.UnpicklingError) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    objects = f"objects ({named[1]})" if named else "objects"
    return f"holds {objects} other than tensors and plain containers; refused, nothing of it was run"
