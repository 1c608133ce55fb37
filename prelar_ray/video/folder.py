"""Where a video store lies: a local folder, or an address of which :mod:`prelar_ray.video.remote` makes copies."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from prelar_ray.video.layout import Contents, ShardRecord, read_contents
from prelar_ray.video.verification import Verify, find_damage

__all__ = ["StoreFolder"]


class StoreFolder:
    """A store in a local folder.

    Attributes:
        name: how messages name the store.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Nothing is read yet."""
        self.path = Path(path)
        self.name = str(path)

    def contents(self) -> Contents:
        """Read manifest and journal.

        Raises:
            DataError: there is no store, or it is damaged.
        """
        return read_contents(self.path)

    def damage(
        self,
        shards: Sequence[ShardRecord],
        verify: Verify,
        on_checked: Callable[[int], object] = lambda size: None,
    ) -> dict[str, str]:
        """Return what is wrong with shards, by file; see :func:`prelar_ray.video.verification.find_damage`."""
        return find_damage(self.path, shards, verify, on_checked)

    def file(self, shard: ShardRecord) -> Path:
        """Return the local file of a shard.

        Raises:
            DataError: it cannot be had.
        """
        return self.path / shard.file
