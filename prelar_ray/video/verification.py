"""Which shards are damaged; a checksum that was right is remembered, and compared again only if the file changes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from prelar_ray.errors import DataError
from prelar_ray.storage.cache import cache_folder
from prelar_ray.storage.files import atomic_file
from prelar_ray.storage.reading import read_json
from prelar_ray.video.layout import ShardRecord
from prelar_ray.video.shard import checksum_problem, size_problem

__all__ = ["Verify", "find_damage"]

Verify = Literal["once"] | bool
"""Compare the checksums of: shards that were not compared yet or have changed since; all; none."""

VERIFIED = "verified.json"
LONG = 2**30
"""Bytes above which comparing is announced."""

Known = dict[str, list[Any]]
"""Size, time of change (ns) and checksum of a file that was right, by its name."""

log = logging.getLogger(__name__)


def find_damage(
    folder: Path,
    shards: Sequence[ShardRecord],
    verify: Verify,
    on_checked: Callable[[int], object] = lambda size: None,
) -> dict[str, str]:
    """Return what is wrong with the shards of a local store, by file.

    Sizes are always compared. ``on_checked`` is told the bytes of each shard whose checksum was compared.
    """
    damage = {one.file: problem for one in shards if (problem := size_problem(folder / one.file, one))}
    if verify is False:
        return damage
    known, now = _recall(folder), {one.file: _state(folder, one) for one in shards if one.file not in damage}
    due = [one for one in shards if one.file in now and (verify is True or known.get(one.file) != now[one.file])]
    if not due:
        return damage
    if (size := sum(one.bytes for one in due)) > LONG and verify == "once":
        log.info("%s: comparing the checksums of %.1f GB, this once (video.verify)", folder, size / 1e9)
    for one, problem in zip(due, _compare(folder, due, on_checked), strict=True):
        if problem:
            damage[one.file] = problem
    _remember(folder, {**known, **now}, damage)
    return {one.file: damage[one.file] for one in shards if one.file in damage}


def _compare(folder: Path, shards: Sequence[ShardRecord], on_checked: Callable[[int], object]) -> list[str]:
    """Return what is wrong with each shard, after reading all of them."""
    problems = []
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        compared = pool.map(lambda shard: checksum_problem(folder / shard.file, shard), shards)
        for shard, problem in zip(shards, compared, strict=True):
            problems.append(problem)
            on_checked(shard.bytes)
    return problems


def _state(folder: Path, shard: ShardRecord) -> list[Any]:
    found = (folder / shard.file).stat()
    return [found.st_size, found.st_mtime_ns, shard.sha256]


def _places(folder: Path) -> list[Path]:
    """Return the files that remember: in the store, and for one that cannot be written in the user's cache."""
    name = hashlib.sha256(str(folder.absolute()).encode(errors="surrogateescape")).hexdigest()[:32]
    return [folder / VERIFIED, cache_folder("verified") / f"{name}.json"]


def _recall(folder: Path) -> Known:
    known: Known = {}
    for path in _places(folder):
        if not path.exists():
            continue
        with suppress(DataError):  # what cannot be read is not known
            found = read_json(path)
            if isinstance(found, dict):
                known |= found
    return known


def _remember(folder: Path, known: Known, damage: dict[str, str]) -> None:
    content = json.dumps({file: state for file, state in known.items() if file not in damage}).encode()
    for path in _places(folder):
        with suppress(DataError, OSError):
            if path.parent != folder:
                path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(content)
            return
    log.info("%s: its checksums will be compared again, neither it nor the cache folder can be written", folder)
