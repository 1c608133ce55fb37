"""True actions of a recording, in a separate file beside the video store that only the probe reads.

``STORE.actions.arrow`` lies beside the folder ``STORE``, not in it. :class:`~prelar_ray.video.store.VideoStore` opens
only the shards that the journal of its folder names, so training cannot read an action.

The file has one column ``value`` float32, the concatenated actions ``(T, A)`` of complete episodes, and as metadata
``format``, ``version``, ``sha256`` of the content, and per episode ``{source, length, size, frames}``, where ``frames``
is the SHA-256 of its frames: actions are looked up by the content of a video, independent of shards.

In version 2 an episode may also have ``nuisance``, a number D: its rows are ``(T, A + D)``, and the last D numbers say
how far that moved which moves by itself, a distractor. Files without one are of version 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.storage.arrow import read_arrays, write_arrays
from prelar_ray.types import Frames

__all__ = ["ActionFile", "ActionWriter", "Actions", "actions_path", "copy_actions", "frames_digest"]

FORMAT: Final = "prelar_ray/actions"
VERSIONS: Final = ("1", "2")

Actions = npt.NDArray[np.float32]
"""Actions of an episode ``(T, A)``; row t led to frame t, row 0 is zero."""


class _EpisodeRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    length: Annotated[int, Field(ge=1)]  # T
    size: Annotated[int, Field(ge=1)]  # A
    frames: str  # SHA-256 of the episode's frames, hexadecimal
    nuisance: Annotated[int, Field(ge=0)] = 0  # D

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.size + self.nuisance


_EPISODES = TypeAdapter(tuple[_EpisodeRecord, ...])


def actions_path(store: Path) -> Path:
    """Return where the actions of the video store in the folder ``store`` lie."""
    store = store.resolve()
    return store.with_name(f"{store.name}.actions.arrow")


class ActionWriter:
    """Writes the actions of a recording, episode by episode; a context manager that writes the last ones on exit.

    The whole file is rewritten atomically with every episode that completes ``shard_frames`` frames, as a shard of the
    video store is; an interrupt waits for the write. Append an episode here before the store, so that every video that
    survives a kill has its actions.
    """

    def __init__(self, path: Path, shard_frames: int, resume: int = 0) -> None:
        """Prepare to write; the file appears with the first complete episodes.

        Args:
            path: of the file.
            shard_frames: of the video store.
            resume: episodes that the video store holds, to continue after them.

        Raises:
            RunFolderError: the file exists, and there is nothing to resume.
            DataError: the file to resume is damaged or holds fewer episodes.
        """
        if path.exists() and not resume:
            raise RunFolderError(
                f"{path} already holds the actions of a recording; choose a new folder name, or delete this file first "
                "if the videos that it belongs to are gone"
            )
        self._path = path
        self._shard_frames = shard_frames
        self._values: list[Actions] = []  # (T, A + D) each
        self._episodes: list[_EpisodeRecord] = []
        self._pending_frames = 0
        if resume:
            kept = ActionFile(path).in_order[:resume]
            if len(kept) < resume:
                raise DataError(
                    f"{path}: actions of {len(kept)} episodes, the videos are {resume}; prepare into a new folder"
                )
            self._episodes = [record for record, _ in kept]
            self._values = [rows for _, rows in kept]

    def append(self, action: Actions, frames: Frames, source: str, nuisance: Actions | None = None) -> None:
        """Add the actions ``(T, A)`` of the episode ``frames`` ``(T, Hpx, Wpx, C)``; row 0, which led nowhere, is zero.

        ``nuisance`` ``(T, D)`` is the motion of what moves by itself, likewise.

        Raises:
            DataError: not one action per frame, or the disk is full.
        """
        if action.ndim != 2 or len(action) != len(frames):
            raise DataError(f"{source}: actions have shape {action.shape}, expected ({len(frames)}, A), one per frame")
        (length, size), other = action.shape, 0 if nuisance is None else nuisance.shape[1]
        digest = frames_digest(frames)
        record = _EpisodeRecord(source=source, length=length, size=size, frames=digest, nuisance=other)
        rows = action if nuisance is None else np.concatenate([action, nuisance], axis=1)
        with interrupts_deferred():
            self._values.append(rows.astype(np.float32))
            self._episodes.append(record)
            self._pending_frames += length
            if self._pending_frames >= self._shard_frames:
                self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with interrupts_deferred():
            if self._pending_frames:
                self._write()

    def _write(self) -> None:
        # Counted as written first: after a failure (disk full) the exit of the block must not try again.
        self._pending_frames = 0
        _write(self._path, self._values, self._episodes)


class ActionFile:
    """Reads the actions of a recording.

    Attributes:
        in_order: record and rows ``(T, A + D)`` of every episode, as they were written.
    """

    def __init__(self, path: Path) -> None:
        """Read the whole file.

        Raises:
            DataError: the file is missing, damaged, of a newer version or of another format.
        """
        self.path = path
        arrays, metadata = read_arrays(path, copy=True)
        if metadata.get("format") != FORMAT or list(arrays) != ["value"]:
            raise DataError(f"{path}: not a file of recorded actions; `prelar-ray record` writes one beside the videos")
        if metadata.get("version") not in VERSIONS:
            raise DataError(
                f"{path}: format version {metadata.get('version')}, this release reads {', '.join(VERSIONS)}; "
                "update prelar-ray"
            )
        text, values = metadata.get("episodes", ""), arrays["value"]
        if _checksum(values, text) != metadata.get("sha256"):
            raise DataError(f"{path}: the checksum differs, it is damaged; restore it from a copy")
        self.in_order = _split(path, text, values)
        self._episodes = {episode.frames: (episode, rows) for episode, rows in self.in_order}

    def __len__(self) -> int:
        """Episodes."""
        return len(self._episodes)

    def of(self, frames: Frames) -> Actions | None:
        """Return the actions ``(T, A)`` of the episode with these frames, or None if the file does not have it."""
        found = self.find(frames)
        return None if found is None else found[0]

    def find(self, frames: Frames) -> tuple[Actions, Actions | None] | None:
        """Return actions ``(T, A)`` of the episode with these frames, and motion ``(T, D)`` of what moves by itself.

        The motion is None where nothing does, and the result is if the file does not have the episode.
        """
        found = self._episodes.get(frames_digest(frames))
        if found is None:
            return None
        record, rows = found
        return rows[:, : record.size], rows[:, record.size :] if record.nuisance else None

    @property
    def episodes(self) -> dict[str, tuple[_EpisodeRecord, Actions]]:
        """Record and rows of all episodes by the digest of their frames."""
        return dict(self._episodes)


def copy_actions(sources: Sequence[Path], target: Path, wanted: Collection[str] | None = None) -> None:
    """Write a file with the actions of others; of the videos in ``wanted``, digests of their frames, or of all.

    Nothing is written if there are none.

    Raises:
        DataError: a file is damaged, or the disk is full.
    """
    found: dict[str, tuple[_EpisodeRecord, Actions]] = {}
    for source in sources:
        found |= ActionFile(source).episodes
    kept = [one for digest, one in found.items() if wanted is None or digest in wanted]
    if kept:
        _write(target, [rows for _, rows in kept], [record for record, _ in kept])


def _write(path: Path, values: Sequence[Actions], records: Sequence[_EpisodeRecord]) -> None:
    """Write a file of actions, ``(T, A + D)`` of each episode."""
    value = np.concatenate([rows.reshape(-1) for rows in values])
    episodes = _EPISODES.dump_json(tuple(records), exclude_defaults=True).decode()
    version = VERSIONS[any(record.nuisance for record in records)]
    metadata = {"format": FORMAT, "version": version, "sha256": _checksum(value, episodes), "episodes": episodes}
    write_arrays(path, {"value": value}, metadata)


def _split(path: Path, text: str, values: npt.NDArray[np.float32]) -> list[tuple[_EpisodeRecord, Actions]]:
    """Return the rows ``(T, A + D)`` of every episode."""
    try:
        episodes = _EPISODES.validate_json(text)
    except ValidationError as error:
        raise DataError(f"{path}: its list of episodes is malformed; restore it from a copy") from error
    stops = np.cumsum([episode.length * episode.width for episode in episodes])
    if not len(stops) or stops[-1] != len(values):
        raise DataError(f"{path}: its episodes do not add up to its {len(values)} numbers; restore it from a copy")
    parts = np.split(values, stops[:-1])
    return [(record, part.reshape(record.length, record.width)) for record, part in zip(episodes, parts, strict=True)]


def _checksum(values: npt.NDArray[np.float32], episodes: str) -> str:
    return hashlib.sha256(values.tobytes() + episodes.encode()).hexdigest()


def frames_digest(frames: npt.NDArray[Any]) -> str:
    """Return what identifies a video by its frames ``(T, Hpx, Wpx, C)``: their SHA-256, hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()
