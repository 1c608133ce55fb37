"""Video store: a folder of Arrow shards that hold only frames, and a manifest.

::

    folder/manifest.json       format, version, attributes of the recording, whether it was completed; per shard: file,
                               frames, bytes, sha256, episodes [{source, length}]
    folder/shard-00000.arrow   one column ``frames`` uint8 (T, Hpx, Wpx, C): whole episodes, one after the other

A shard is complete before the manifest names it, and both appear atomically: a store can be read while it is being
recorded, and the finished shards of a killed recording stay readable. Each shard repeats its episodes in its metadata;
readers compare them with the manifest, which detects shards of another store.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from prelar_ray.config import VideoConfig
from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.interrupts import interrupts_deferred
from prelar_ray.storage.arrow import checksum, read_arrays, write_arrays
from prelar_ray.storage.files import atomic_file
from prelar_ray.types import Frames, check_frames
from prelar_ray.wording import counted

__all__ = ["MANIFEST", "VideoStore", "VideoWriter", "is_complete"]

FORMAT: Final = "prelar_ray/video"
VERSION: Final = 1
MANIFEST: Final = "manifest.json"

log = logging.getLogger(__name__)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _EpisodeRecord(_Record):
    source: str
    length: Annotated[int, Field(ge=1)]  # frames


class _ShardRecord(_Record):
    file: Annotated[str, Field(pattern=r"^shard-\d{5,}\.arrow$")]  # a name, never a path out of the folder
    frames: int
    bytes: int
    sha256: str
    episodes: tuple[_EpisodeRecord, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if sum(episode.length for episode in self.episodes) != self.frames:
            raise ValueError(f"the episodes of {self.file} do not add up to its {self.frames} frames")
        return self


class _Manifest(_Record):
    format: Literal["prelar_ray/video"] = FORMAT
    version: Literal[1] = VERSION
    attributes: dict[str, Any]
    complete: bool = True  # older stores lack the field and count as complete
    shards: tuple[_ShardRecord, ...] = ()


_EPISODES = TypeAdapter(tuple[_EpisodeRecord, ...])
"""The episodes of one shard as JSON, kept in the shard's metadata."""


class VideoWriter:
    """Writes a video store, episode by episode; a context manager that writes the last shard on exit.

    Appended episodes are written even if the block ends with an exception, Ctrl-C included: an interrupt waits for the
    shard that is being written. A kill loses the episodes that no shard holds yet. The store counts as complete if the
    block ends without an exception and no episode was lost to a full disk.

    Attributes:
        episodes: written so far.
        frames: of these episodes.
    """

    def __init__(self, path: Path, attributes: dict[str, Any], shard_frames: int) -> None:
        """Create the folder; ``attributes`` (camera, orientation, ...) must be JSON-serialisable.

        A shard is closed with the episode that reaches ``shard_frames``; until then its frames stay in memory.

        Raises:
            RunFolderError: the folder holds a store or other files, or cannot be created.
        """
        _claim(path)
        self.episodes = self.frames = 0
        self._path = path
        self._shard_frames = shard_frames
        self._manifest = _Manifest(attributes=attributes, complete=False)
        self._appended = 0  # episodes, written or not
        self._pending: list[tuple[str, Frames]] = []
        self._pending_frames = 0
        self._write_manifest()

    def append(self, frames: npt.NDArray[Any], source: str) -> None:
        """Add one episode, uint8 ``(T, 64, 64, 3)``; ``source`` names its task, for example "metaworld/push-v3".

        Raises:
            DataError: no frames, a wrong type or size, or the disk is full.
        """
        frames = check_frames(frames, source)
        if len(frames) == 0:
            raise DataError(f"{source}: an episode without frames; append at least one")
        with interrupts_deferred():
            self._appended += 1
            self._pending.append((source, frames.copy()))
            self._pending_frames += len(frames)
            if self._pending_frames >= self._shard_frames:
                self._close_shard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with interrupts_deferred():
            if self._pending:
                self._close_shard()
            if kind is None and self.episodes == self._appended:
                self._manifest = self._manifest.model_copy(update={"complete": True})
                self._write_manifest()

    def _close_shard(self) -> None:
        # Removed first: after a failure (disk full) the exit of the block must not try again.
        pending, self._pending, self._pending_frames = self._pending, [], 0
        episodes = tuple(_EpisodeRecord(source=source, length=len(frames)) for source, frames in pending)
        name = f"shard-{len(self._manifest.shards):05d}.arrow"
        frames = np.concatenate([frames for _, frames in pending])  # (T, Hpx, Wpx, C)
        info = write_arrays(self._path / name, {"frames": frames}, {"episodes": _EPISODES.dump_json(episodes).decode()})
        shard = _ShardRecord(file=name, frames=len(frames), bytes=info.bytes, sha256=info.sha256, episodes=episodes)
        self._manifest = self._manifest.model_copy(update={"shards": (*self._manifest.shards, shard)})
        self._write_manifest()
        self.episodes += len(episodes)
        self.frames += len(frames)

    def _write_manifest(self) -> None:
        with atomic_file(self._path / MANIFEST) as file:
            file.write(self._manifest.model_dump_json(indent=2).encode())


def is_complete(path: Path) -> bool:
    """Whether the recording of the video store at ``path`` is complete.

    Raises:
        DataError: there is no video store, or its manifest cannot be read.
    """
    return _read_manifest(path).complete


class VideoStore:
    """Reads a video store: memory-mapped frames of whole episodes, in the order they were recorded.

    Attributes:
        attributes: attributes of the recording (camera, orientation, render_quality, policy, ...).
        complete: whether the recording is complete; otherwise it was interrupted or is still in progress.
        damaged: file names of the shards left out with ``skip_bad``.
    """

    def __init__(self, path: Path, verify: bool = True, skip_bad: bool = False) -> None:
        """Open all shards; ``verify`` compares checksums, ``skip_bad`` leaves damaged shards out with a warning.

        An incomplete recording is used as far as it goes, with a warning.

        Raises:
            DataError: the folder is missing, empty or of a newer version; a shard is damaged; nothing is left.
        """
        self._path = path
        self._verify = verify
        self._skip_bad = skip_bad
        self._shards: tuple[_ShardRecord, ...] = ()  # all shards of the manifest read last, damaged ones included
        self._episodes: list[Frames] = []
        self._sources: list[str] = []
        self._origins: list[tuple[str, int]] = []
        self.damaged: list[str] = []
        self.complete = True
        self.attributes = _read_manifest(path).attributes
        self.refresh()
        if not self._episodes:
            left_out = f" ({counted(len(self.damaged), 'damaged shard')} left out)" if self.damaged else ""
            raise DataError(f"{path}: holds no episodes{left_out}; record videos into a new folder")
        if not self.complete:
            found = f"{counted(len(self), 'episode')}, {counted(self.total_frames, 'frame')}"
            log.warning("%s: its recording was interrupted or is in progress; used as far as it goes: %s", path, found)

    @classmethod
    def open(cls, config: VideoConfig) -> Self:
        """Open the store of a configuration.

        Raises:
            DataError: see the constructor.
        """
        return cls(Path(config.path), verify=config.verify, skip_bad=config.skip_bad)

    def __len__(self) -> int:
        """Episodes."""
        return len(self._episodes)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Frames of each episode, ``(len(self),)``."""
        return np.array([len(frames) for frames in self._episodes], dtype=np.int64)

    @property
    def sources(self) -> list[str]:
        """Where each episode came from, for example "metaworld/push-v3"."""
        return list(self._sources)

    @property
    def origins(self) -> list[tuple[str, int]]:
        """Checksum of its shard and position in it, for each episode: independent of where the shard is copied."""
        return list(self._origins)

    @property
    def total_frames(self) -> int:
        """Frames of all episodes."""
        return sum(len(frames) for frames in self._episodes)

    def frames(self, episode: int) -> Frames:
        """Return one episode, a read-only view ``(T, 64, 64, 3)`` of the mapped file."""
        return self._episodes[episode]

    def refresh(self) -> bool:
        """Add shards written since and return whether episodes were added; earlier ones keep their index.

        Raises:
            DataError: a new shard is damaged, or the folder now holds another recording.
        """
        manifest = _read_manifest(self._path)
        shards = manifest.shards
        known = len(self._shards)
        if shards[:known] != self._shards:
            raise DataError(f"{self._path}: was replaced by another recording while in use; open it again")
        opened, failures = self._open(shards[known:])
        if failures and not self._skip_bad:
            raise DataError("; ".join(failures.values()) + "; video.skip_bad=true (--skip-bad) leaves it out")
        for name, failure in failures.items():
            log.warning("%s is left out: %s", name, failure)
        for shard, frames in opened:
            bounds = np.cumsum([0, *(episode.length for episode in shard.episodes)])
            self._episodes.extend(frames[start:stop] for start, stop in pairwise(bounds))
            self._sources.extend(episode.source for episode in shard.episodes)
            self._origins.extend((shard.sha256, place) for place in range(len(shard.episodes)))
        self.damaged.extend(failures)
        self._shards = shards
        self.complete = manifest.complete
        return bool(opened)

    def _open(self, shards: Sequence[_ShardRecord]) -> tuple[list[tuple[_ShardRecord, Frames]], dict[str, str]]:
        """Return the frames of the intact shards, and the errors of the others by file name."""
        opened, failures = [], {}
        with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
            futures = [pool.submit(_open_shard, self._path / shard.file, shard, self._verify) for shard in shards]
        for shard, future in zip(shards, futures, strict=True):
            try:
                opened.append((shard, future.result()))
            except DataError as error:
                failures[shard.file] = str(error)
        return opened, failures


def _claim(path: Path) -> None:
    """Create the folder of a new store; RunFolderError if it cannot be created or is not empty."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = any(path.iterdir())
    except OSError as error:
        raise RunFolderError(f"{path}: no folder can be made here ({error.strerror}); choose another name") from error
    if occupied:
        content = "a video store" if (path / MANIFEST).exists() else "other files"
        raise RunFolderError(f"{path} already holds {content}; choose a new folder name, or delete this one first")


def _read_manifest(path: Path) -> _Manifest:
    """Read and check the manifest in ``path``; DataError says what is wrong with it."""
    file = path / MANIFEST
    if not file.is_file():
        problem = "no such folder"
        if path.exists():
            problem = (
                f"no {MANIFEST} in it, so it is not a video store" if path.is_dir() else "a file, expected a folder"
            )
        raise DataError(
            f"{path}: {problem}; `prelar-ray record` writes a video store, or correct video.path (--videos)"
        )
    try:
        content = json.loads(file.read_bytes())
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{file}: not the manifest of a video store (format is not {FORMAT!r}); correct video.path")
        version = content.get("version")
        if isinstance(version, int) and version > VERSION:
            raise DataError(f"{file}: format version {version}, this release reads {VERSION}; update prelar-ray")
        return _Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{file}: damaged at {where}: {first['msg']}; restore it from a copy") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); restore it from a copy") from error


def _open_shard(path: Path, shard: _ShardRecord, verify: bool) -> Frames:
    """Return the frames of a shard, a view ``(T, Hpx, Wpx, C)``; DataError if it differs from the manifest."""
    if not path.is_file():
        raise DataError(f"{path}: missing; restore it from a copy")
    size = path.stat().st_size
    if size != shard.bytes:
        raise DataError(f"{path}: {size} bytes, expected {shard.bytes}, it is truncated or damaged; restore it")
    if verify and checksum(path) != shard.sha256:
        raise DataError(f"{path}: the checksum differs from the manifest's, it is damaged; restore it from a copy")
    arrays, metadata = read_arrays(path)
    if list(arrays) != ["frames"]:
        raise DataError(f"{path}: holds {', '.join(arrays)}, expected frames and nothing else; record it again")
    frames = check_frames(arrays["frames"], str(path))
    try:
        episodes = _EPISODES.validate_json(metadata.get("episodes", ""))
    except ValidationError:
        episodes = ()
    if episodes != shard.episodes or len(frames) != shard.frames:
        raise DataError(f"{path}: its episodes are not those of the manifest, it is of another store; restore it")
    return frames
