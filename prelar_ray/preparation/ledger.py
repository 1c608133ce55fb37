"""Which items a store holds already: kept in the notes of its shards, and compared when a preparation resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from prelar_ray.errors import DataError
from prelar_ray.preparation.conversion import Finished
from prelar_ray.preparation.ordered import Task
from prelar_ray.sources.source import Item

__all__ = ["Ledger", "named"]


class Ledger:
    """The items that are in the store, in its order; a shard's note holds those that ended in it.

    Attributes:
        left_out: what was left out so far, by item, with the reason.
        notes: what a user should know so far, by item.
        too_short: items of the episodes left out for their length so far, one for each.
    """

    def __init__(self, notes: Sequence[dict[str, Any]] = (), pending: dict[str, Any] | None = None) -> None:
        """Read the notes of a store's shards, in their order, and of one whose episodes will be written again."""
        self.left_out: list[str] = []
        self.notes: list[str] = []
        self.too_short: list[str] = []
        self._done: list[list[Any]] = []  # key and fingerprint of each item
        self._pieces = 0  # of the item after these
        for note in notes:
            self._add(note)
        self._noted = self._counts()  # what the notes of closed shards hold
        if pending:
            self._add(pending)

    def _add(self, note: dict[str, Any]) -> None:
        self._done += note["items"]
        self._pieces = note["pieces"]
        self.left_out += note["left_out"]
        self.notes += note["notes"]
        self.too_short += note["too_short"]

    def _counts(self) -> tuple[int, int, int, int]:
        return len(self._done), len(self.left_out), len(self.notes), len(self.too_short)

    @property
    def items(self) -> int:
        """Items that ended."""
        return len(self._done)

    @property
    def pieces(self) -> int:
        """Pieces of the item after these that are in the store."""
        return self._pieces

    def piece(self) -> None:
        """Count a piece of the next item; call it before the piece is appended to the store."""
        self._pieces += 1

    def finish(self, task: Task, finished: Finished) -> None:
        """Note the end of the next item."""
        source, item = task
        self._done.append([_key(source, item), fingerprint(item)])
        self._pieces = 0
        self.notes += [named(item.key, note) for note in finished.notes]
        if finished.failure:
            self.left_out.append(named(item.key, finished.failure))
        self.too_short += [item.key] * finished.too_short

    def note(self) -> dict[str, Any]:
        """Return the note of the shard that is closed now: what happened since the one before it."""
        items, left_out, notes, too_short = self._noted
        self._noted = self._counts()
        return {
            "items": self._done[items:],
            "pieces": self._pieces,
            "left_out": self.left_out[left_out:],
            "notes": self.notes[notes:],
            "too_short": self.too_short[too_short:],
        }

    def check(self, tasks: Sequence[Task]) -> None:
        """Check that the items of the store are the first of ``tasks`` and have not changed since.

        Raises:
            DataError: an item is gone, new or changed; names it.
        """
        advice = "prepare into a new folder"
        for position, (key, was) in enumerate(self._done):
            if position == len(tasks):
                raise DataError(f"{key}: in the store, but no longer among the sources; restore it, or {advice}")
            source, item = tasks[position]
            if _key(source, item) != key:
                raise DataError(f"{item.key}: comes where the store has {key}; restore what was there, or {advice}")
            if fingerprint(item) != was:
                raise DataError(
                    f"{item.key}: has changed since it was converted, or what is taken of it; restore it, or {advice}"
                )


def named(key: str, message: str) -> str:
    """Return a message that names the item, once."""
    return message if f"{key}: " in message else f"{key}: {message}"


def fingerprint(item: Item) -> list[Any]:
    """Return a digest of what is read of an item, then size and time (nanoseconds) of its files; zeros for one gone."""
    digest = hashlib.sha256(json.dumps(item.detail).encode()).hexdigest()[:16]
    return [digest, *(_stat(item, number) for number in range(len(item.files)))]


def _stat(item: Item, number: int) -> list[int]:
    try:
        stat = item.files[number].stat()
    except OSError:
        return [0, 0]
    return [stat.st_size, stat.st_mtime_ns]


def _key(source: int, item: Item) -> str:
    return f"{source}:{item.key}"
