"""Reads a video store: a folder of Arrow shards that hold only frames; :mod:`prelar_ray.video.layout` has its files.

A store can be read while it is being written, and the finished shards of a killed recording stay readable. Each shard
repeats its episodes in its metadata; readers compare them with the journal, which detects shards of another store.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from prelar_ray.config import VideoConfig
from prelar_ray.errors import DataError
from prelar_ray.types import Frames
from prelar_ray.video.folder import StoreFolder
from prelar_ray.video.layout import MANIFEST, ShardRecord, read_manifest
from prelar_ray.video.remote import store_folder
from prelar_ray.video.shard import Shard
from prelar_ray.video.verification import Verify
from prelar_ray.video.writer import VideoWriter
from prelar_ray.wording import counted

__all__ = ["MANIFEST", "VideoStore", "VideoWriter", "is_complete"]

log = logging.getLogger(__name__)

Integers = npt.NDArray[np.int64]


def is_complete(path: Path) -> bool:
    """Whether the recording of the video store at ``path`` is complete.

    Raises:
        DataError: there is no video store, or its manifest cannot be read.
    """
    return read_manifest(path).complete


class VideoStore:
    """Reads a video store: frames of whole episodes, in the order they were written. Threads may share it.

    A shard is mapped when it is first read; frames of uncompressed shards are views of the mapped file.

    Attributes:
        attributes: attributes of the videos (camera, orientation, render_quality, policy, ...).
        image_size: height and width of the frames, pixels.
        complete: whether the recording is complete; otherwise it was interrupted or is still in progress.
        compression: of the shards: none, lz4, zstd or mixed.
        damaged: file names of the shards left out with ``skip_bad``.
    """

    def __init__(
        self, path: str | os.PathLike[str] | StoreFolder, verify: Verify = "once", skip_bad: bool = False
    ) -> None:
        """Look at all shards; ``skip_bad`` leaves damaged shards out with a warning.

        Sizes are always compared; with ``verify`` checksums too, of all shards or of those not compared before. An
        incomplete recording is used as far as it goes, with a warning.

        Raises:
            DataError: the folder is missing, empty or of a newer version; a shard is damaged; nothing is left.
        """
        self._folder = path if isinstance(path, StoreFolder) else StoreFolder(path)
        self._verify = verify
        self._skip_bad = skip_bad
        self._listed: list[ShardRecord] = []  # all shards of the journal read last, damaged ones included
        self._records: list[ShardRecord] = []  # those in use
        self._opened: list[Shard | None] = []  # one for each of them
        self._opening = threading.Lock()
        self._sources: list[str] = []
        self._origins: list[tuple[str, int]] = []
        self._lengths = self._shards = self._starts = np.empty(0, np.int64)  # of each episode
        self.damaged: list[str] = []
        self._read()
        if not self._records:
            left_out = f" ({counted(len(self.damaged), 'damaged shard')} left out)" if self.damaged else ""
            raise DataError(
                f"{self._folder.name}: holds no episodes{left_out}; record or prepare videos into a new folder"
            )
        if not self.complete:
            found = f"{counted(len(self), 'episode')}, {counted(self.total_frames, 'frame')}"
            message = "%s: its recording was interrupted or is in progress; used as far as it goes: %s"
            log.warning(message, self._folder.name, found)

    @classmethod
    def open(cls, path: str, config: VideoConfig, verify_again: bool = False) -> Self:
        """Open the store at a path or an address, as a configuration says.

        With ``verify_again`` all checksums are compared, also those that were before.

        Raises:
            DataError: see the constructor.
        """
        verify: Verify = True if verify_again else "once" if config.verify else False
        return cls(store_folder(path, config.cache), verify=verify, skip_bad=config.skip_bad)

    def __len__(self) -> int:
        """Episodes."""
        return len(self._lengths)

    @property
    def name(self) -> str:
        """How messages name it: its path or address."""
        return self._folder.name

    @property
    def lengths(self) -> Integers:
        """Frames of each episode, ``(len(self),)``, read-only."""
        return self._lengths

    @property
    def sources(self) -> list[str]:
        """Where each episode came from, for example "metaworld/push-v3"."""
        return list(self._sources)

    @property
    def origins(self) -> list[tuple[str, int]]:
        """Checksum of its shard and position in it, for each episode: independent of where the shard is copied."""
        return list(self._origins)

    @property
    def shards(self) -> list[ShardRecord]:
        """The shards in use, as the journal describes them; their episodes follow one another."""
        return list(self._records)

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What the writer noted with each shard in use."""
        return [shard.note for shard in self._records]

    @property
    def bytes(self) -> int:
        """Bytes of the shards in use."""
        return sum(shard.bytes for shard in self._records)

    @property
    def checksum(self) -> str:
        """SHA-256 over the checksums of the shards in use, in order, hexadecimal."""
        return hashlib.sha256("".join(shard.sha256 for shard in self._records).encode()).hexdigest()

    @property
    def total_frames(self) -> int:
        """Frames of all episodes."""
        return int(self._lengths.sum())

    def read(self, episode: int, start: int, stop: int, out: Frames | None = None) -> Frames:
        """Return the frames ``start`` to ``stop`` of an episode, ``(stop - start, Hpx, Wpx, C)``.

        They are copied into ``out`` if that is given; else they are a read-only view where the shard is uncompressed.

        Raises:
            IndexError: the episode has no such frames.
            DataError: the shard is damaged or cannot be had.
        """
        length, first = int(self._lengths[episode]), int(self._starts[episode])
        if not 0 <= start <= stop <= length:
            raise IndexError(f"episode {episode} has {length} frames; {start} to {stop} were asked for")
        if start == stop:
            return np.empty((0, self.image_size, self.image_size, 3), np.uint8) if out is None else out
        return self._shard(int(self._shards[episode])).read(first + start, first + stop, out)

    def frames(self, episode: int) -> Frames:
        """Return one episode, ``(T, Hpx, Wpx, C)``; a read-only view of the mapped file where that is uncompressed.

        Raises:
            DataError: the shard is damaged or cannot be had.
        """
        return self.read(episode, 0, int(self._lengths[episode]))

    def file(self, shard: int) -> Path:
        """Return the local file of the shard of this number among :attr:`shards`.

        Raises:
            DataError: it cannot be had.
        """
        return self._folder.file(self._records[shard])

    def refresh(self) -> bool:
        """Add shards written since and return whether episodes were added; earlier ones keep their index.

        Raises:
            DataError: a new shard is damaged, or the folder now holds another recording.
        """
        return self._read()

    def _read(self) -> bool:
        manifest, listed = self._folder.contents()
        known = len(self._listed)
        if listed[:known] != self._listed:
            raise DataError(f"{self._folder.name}: was replaced by another recording while in use; open it again")
        new = listed[known:]
        damage = self._folder.damage(new, self._verify)
        if damage and not self._skip_bad:
            raise DataError("; ".join(damage.values()) + "; video.skip_bad=true (--skip-bad) leaves it out")
        for file, problem in damage.items():
            log.warning("%s is left out: %s", file, problem)
        self._add([shard for shard in new if shard.file not in damage])
        self.damaged.extend(damage)
        self._listed = listed
        self.attributes, self.complete, self.compression = manifest.attributes, manifest.complete, manifest.compression
        self.image_size: int = manifest.image_size
        return len(damage) < len(new)

    def _add(self, shards: Sequence[ShardRecord]) -> None:
        """Add the episodes of shards behind those that are there."""
        lengths, numbers, starts = [self._lengths], [self._shards], [self._starts]
        for number, shard in enumerate(shards, start=len(self._records)):
            lengths.append(np.array(shard.lengths, dtype=np.int64))
            numbers.append(np.full(len(shard.lengths), number, dtype=np.int64))
            starts.append(np.cumsum(lengths[-1]) - lengths[-1])
            self._sources.extend(shard.sources)
            self._origins.extend((shard.sha256, place) for place in range(len(shard.lengths)))
        self._opened.extend([None] * len(shards))
        self._records.extend(shards)
        self._shards, self._starts, self._lengths = (np.concatenate(parts) for parts in (numbers, starts, lengths))
        self._lengths.flags.writeable = False

    def _shard(self, number: int) -> Shard:
        """Return a shard, mapped at its first use."""
        shard = self._opened[number]
        if shard is None:
            with self._opening:
                shard = self._opened[number]
                if shard is None:
                    record = self._records[number]
                    shard = self._opened[number] = Shard(self._folder.file(record), record, self.image_size)
        return shard
