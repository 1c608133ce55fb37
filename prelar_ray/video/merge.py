"""Makes one store of several, or two of one, without re-encoding anything.

Shards that stay whole are linked, or copied where that is not possible; of others the arrays of the episodes are
copied. True actions that lie beside a store go along.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prelar_ray.errors import RunFolderError, UsageError
from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.storage.files import atomic_file
from prelar_ray.video.actions import actions_path, copy_actions, frames_digest
from prelar_ray.video.journal import Journal
from prelar_ray.video.layout import ShardRecord
from prelar_ray.video.shard import WholeEpisode, write_shard
from prelar_ray.video.store import VideoStore

__all__ = ["merge", "share_of", "sources_of", "split"]

Mask = npt.NDArray[np.bool_]
OnShard = Callable[[int], object]


def merge(stores: Sequence[tuple[Path, VideoStore]], out: Path, on_shard: OnShard) -> None:
    """Write the store ``out`` with all shards of ``stores``, in order.

    Attributes that all stores share stay as they are; others become a mapping from the store's name. ``on_shard`` is
    told the number of shards done.

    Raises:
        UsageError: a shard is in two of the stores, or their frames are of different sizes.
        RunFolderError: ``out``, or actions beside it, exist.
        DataError: a shard is damaged, or the disk is full.
    """
    _refuse_same_shards(stores)
    _refuse_sizes(stores)
    compressions = {store.compression for _, store in stores}
    compression = compressions.pop() if len(compressions) == 1 else "mixed"
    actions = [path for folder, _ in stores if (path := actions_path(folder)).exists()]
    with _new_store(out, _merged_attributes(stores), compression, stores[0][1].image_size) as journal:
        if actions:
            copy_actions(actions, actions_path(out))
        for _, store in stores:
            for number, shard in enumerate(store.shards):
                _take_whole(journal, store.file(number), shard)
                on_shard(1)


def split(store: VideoStore, path: Path, chosen: Mask, out: tuple[Path, Path], on_shard: OnShard) -> None:
    """Write the episodes that are ``chosen``, ``(len(store),)``, to the first store of ``out``, others to the second.

    Args:
        path: of ``store``.
        on_shard: told the number of shards done.

    Raises:
        UsageError: nothing would be in one of them, or they are the same.
        RunFolderError: one of them, or actions beside it, exist.
        DataError: a shard is damaged, or the disk is full.
    """
    if out[0].absolute() == out[1].absolute():
        raise UsageError(f"{out[0]}: twice; name two new folders")
    for mask, part in zip((chosen, ~chosen), out, strict=True):
        if not mask.any():
            raise UsageError(f"{part}: no episode would be in it; choose another share or other sources")
    with (
        _new_store(out[0], store.attributes, store.compression, store.image_size) as first,
        _new_store(out[1], store.attributes, store.compression, store.image_size) as second,
    ):
        parts = ((chosen, first), (~chosen, second))
        for mask, journal in parts if actions_path(path).exists() else ():
            digests = {frames_digest(store.frames(episode)) for episode in np.flatnonzero(mask).tolist()}
            copy_actions([actions_path(path)], actions_path(journal.path), digests)
        start = 0
        for number, shard in enumerate(store.shards):
            stop = start + len(shard.lengths)
            for mask, journal in parts:
                _take(journal, store, number, range(start, stop), mask[start:stop])
            start = stop
            on_shard(1)


def share_of(store: VideoStore, share: float, rng: np.random.Generator) -> Mask:
    """Choose a share of the episodes at random, ``(len(store),)``."""
    mask = np.zeros(len(store), np.bool_)
    mask[rng.permutation(len(store))[: round(share * len(store))]] = True
    return mask


def sources_of(store: VideoStore, names: Collection[str]) -> Mask:
    """Choose the episodes of some sources, ``(len(store),)``.

    Raises:
        UsageError: the store has no episode of one of them.
    """
    known = sorted(set(store.sources))
    if unknown := [name for name in names if name not in known]:
        listed = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        raise UsageError(f"--sources {unknown[0]}: no episode has this source; there are {listed}")
    wanted = set(names)
    return np.array([source in wanted for source in store.sources])


@contextmanager
def _new_store(out: Path, attributes: dict[str, Any], compression: str, image_size: int) -> Iterator[Journal]:
    """Create a store that is complete if the block ends without an exception, and else is removed."""
    if actions_path(out).exists():
        raise RunFolderError(
            f"{actions_path(out)} already holds the actions of videos; choose a new folder name, or delete it first"
        )
    journal = Journal.create(out, attributes, compression, image_size)
    try:
        yield journal
        journal.complete()
    except BaseException:
        with interrupts_deferred():
            shutil.rmtree(out, ignore_errors=True)
            actions_path(out).unlink(missing_ok=True)
        raise
    finally:
        journal.close()


def _take(journal: Journal, store: VideoStore, number: int, episodes: Sequence[int], mask: Mask) -> None:
    """Add the episodes of a shard that ``mask`` chooses."""
    shard = store.shards[number]
    if mask.all():
        _take_whole(journal, store.file(number), shard)
    elif mask.any():
        parts = [
            WholeEpisode(source, store.frames(episode))
            for source, episode, wanted in zip(shard.sources, episodes, mask, strict=True)
            if wanted
        ]
        file = journal.new_file()
        compression = "lz4" if store.compression == "mixed" else store.compression
        journal.add(write_shard(journal.path / file, file, parts, compression, {}))


def _take_whole(journal: Journal, source: Path, shard: ShardRecord) -> None:
    """Add a shard as it is."""
    file = journal.new_file()
    target = journal.path / file
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        with source.open("rb") as reader, atomic_file(target) as writer:
            shutil.copyfileobj(reader, writer, 2**23)
    journal.add(shard.model_copy(update={"file": file}))


def _refuse_same_shards(stores: Sequence[tuple[Path, VideoStore]]) -> None:
    seen: dict[str, Path] = {}
    for path, store in stores:
        for shard in store.shards:
            if shard.sha256 in seen:
                raise UsageError(
                    f"{path}: {shard.file} is also in {seen[shard.sha256]}; its videos would count twice, leave one out"
                )
        seen |= {shard.sha256: path for shard in store.shards}  # one store may hold the same videos twice


def _refuse_sizes(stores: Sequence[tuple[Path, VideoStore]]) -> None:
    (first, one), *others = stores
    for path, store in others:
        if store.image_size != one.image_size:
            raise UsageError(
                f"{path}: holds frames of {store.image_size} x {store.image_size} pixels, {first} of "
                f"{one.image_size} x {one.image_size}; a store has one size, leave one out or prepare it again"
            )


def _merged_attributes(stores: Sequence[tuple[Path, VideoStore]]) -> dict[str, Any]:
    names = [path.name for path, _ in stores]
    if len(set(names)) < len(names):
        names = [str(path) for path, _ in stores]
    keys = dict.fromkeys(key for _, store in stores for key in store.attributes)
    found = {key: [store.attributes.get(key) for _, store in stores] for key in keys}
    return {
        key: values[0] if all(value == values[0] for value in values) else dict(zip(names, values, strict=True))
        for key, values in found.items()
    }
