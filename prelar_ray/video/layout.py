"""Files of a video store, and how they are read.

::

    folder/manifest.json       format, version, attributes of the videos, whether they are complete, compression, size
                               of the frames; once they are complete, the number of shards
    folder/shards.jsonl        the journal: a line for each shard, in order: file, frames, bytes, sha256, and of its
                               episodes the sources and lengths; note: what the writer wants to find again
    folder/shard-00000.arrow   one column ``frames`` uint8 (T, Hpx, Wpx, C): whole episodes, one after the other
    folder/verified.json       which shards had the right checksum when they were read, if the folder is writable
    folder/writer.lock         while a process writes the store

A shard is complete before the journal names it. A last line without a line break was cut off by a kill, and does not
count. Version 1 had the shards in the manifest, which was rewritten with each of them.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prelar_ray.errors import DataError
from prelar_ray.storage.arrow import Compression
from prelar_ray.storage.files import MOST_BYTES_OF_LINES
from prelar_ray.storage.json_text import parse_json, take_check
from prelar_ray.storage.reading import first_mistake, read_bytes, read_json, validated
from prelar_ray.types import IMAGE_SIZE, ImageSize

__all__ = [
    "JOURNAL",
    "MANIFEST",
    "Contents",
    "Manifest",
    "ShardRecord",
    "check_image_size",
    "read_contents",
    "read_manifest",
]

FORMAT: Final = "prelar_ray/video"
VERSION: Final = 2
MANIFEST: Final = "manifest.json"
JOURNAL: Final = "shards.jsonl"

Positive = Annotated[int, Field(ge=1, lt=2**63)]
FileName = Annotated[str, Field(pattern=r"^shard-\d{5,}\.arrow$")]  # a name, never a path out of the folder
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # also the name of a copy
MOST_BYTES = 2**28
"""Size of a manifest above which it is refused; version 1 had the episodes in it."""


log = logging.getLogger(__name__)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardRecord(_Record):
    """A shard, as the journal describes it."""

    file: FileName
    frames: Positive
    bytes: Positive
    sha256: Sha256
    sources: list[str]
    """Of its episodes, in order."""
    lengths: list[Positive]
    """Of its episodes, frames."""
    note: dict[str, Any] = {}

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if sum(self.lengths) != self.frames or len(self.sources) != len(self.lengths):
            raise ValueError(f"the episodes of {self.file} do not add up to its {self.frames} frames")
        return self


class Manifest(_Record):
    """The manifest of a store."""

    format: Literal["prelar_ray/video"] = FORMAT
    version: Literal[1, 2] = VERSION
    attributes: dict[str, Any]
    complete: bool = False
    compression: Compression | Literal["mixed"] = "none"
    image_size: ImageSize = IMAGE_SIZE
    """Height and width of the frames, pixels; earlier releases had one size and did not state it."""
    shards: int | None = None
    """Number of shards of a complete store."""


class Contents(NamedTuple):
    """What manifest and journal say."""

    manifest: Manifest
    shards: list[ShardRecord]


class _EpisodeRecord1(_Record):
    source: str
    length: Positive


class _ShardRecord1(_Record):
    file: FileName
    frames: Positive
    bytes: Positive
    sha256: Sha256
    episodes: tuple[_EpisodeRecord1, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if sum(episode.length for episode in self.episodes) != self.frames:
            raise ValueError(f"the episodes of {self.file} do not add up to its {self.frames} frames")
        return self

    def converted(self) -> ShardRecord:
        """Return the record of the present version."""
        sources, lengths = [one.source for one in self.episodes], [one.length for one in self.episodes]
        same = self.model_dump(exclude={"episodes"})
        return ShardRecord(**same, sources=sources, lengths=lengths)


class _Manifest1(_Record):
    format: Literal["prelar_ray/video"]
    version: Literal[1]
    attributes: dict[str, Any]
    complete: bool = True  # the oldest stores lack the field and count as complete
    shards: tuple[_ShardRecord1, ...] = ()


def check_image_size(store: str, found: int, wanted: int) -> None:
    """Make sure that the frames of a store are of the size that a run takes.

    Args:
        store: how messages name it.
        found: size of its frames, pixels.
        wanted: ``env.image_size`` of the run.

    Raises:
        DataError: they are not; names the store, both sizes and what to do.
    """
    if found != wanted:
        raise DataError(
            f"{store}: holds frames of {found} x {found} pixels, and env.image_size={wanted}; set "
            f"env.image_size={found}, or record (env.image_size={wanted}) or prepare (--image-size {wanted}) the "
            "videos at that size"
        )


def read_manifest(path: Path) -> Manifest:
    """Read and check the manifest of the store at ``path``.

    Raises:
        DataError: there is no store, or it is of a newer version; or the manifest is damaged.
    """
    return _read_manifest(path)[0]


def read_contents(path: Path) -> Contents:
    """Read and check manifest and journal of the store at ``path``.

    Raises:
        DataError: there is no store, or it is of a newer version; or one of the two is damaged.
    """
    manifest, shards = _read_manifest(path)  # first: a manifest that says complete comes after the last shard
    if manifest.version == VERSION:
        shards = _read_journal(path / JOURNAL)
    if twice := [name for name, times in Counter(shard.file for shard in shards).items() if times > 1]:
        where = path / (JOURNAL if manifest.version == VERSION else MANIFEST)
        raise DataError(f"{where}: names {twice[0]} twice, whose videos would count twice; restore it from a copy")
    if manifest.shards not in (None, len(shards)):
        raise DataError(
            f"{path / JOURNAL}: names {len(shards)} of the store's {manifest.shards} shards; restore it from a copy"
        )
    return Contents(manifest, shards)


def _read_manifest(path: Path) -> tuple[Manifest, list[ShardRecord]]:
    """Return the manifest, and the shards that one of version 1 names."""
    file = path / MANIFEST
    if not file.is_file():
        problem = "no such folder"
        if path.exists():
            problem = (
                f"no {MANIFEST} in it, so it is not a video store" if path.is_dir() else "a file, expected a folder"
            )
        raise DataError(
            f"{path}: {problem}; `prelar-ray record` or `prepare` writes a video store; correct video.path (--videos)"
        )
    try:
        content = read_json(file, most=MOST_BYTES)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{file}: not the manifest of a video store (format is not {FORMAT!r}); correct video.path")
        version = content.get("version")
        if isinstance(version, int) and version > VERSION:
            raise DataError(f"{file}: format version {version}, this release reads {VERSION}; update prelar-ray")
        if version == 1:
            old = validated(_Manifest1, content)
            manifest = Manifest(version=1, attributes=old.attributes, complete=old.complete)
            return manifest, [shard.converted() for shard in old.shards]
        return validated(Manifest, content), []
    except ValidationError as error:
        raise DataError(f"{file}: damaged at {_where(error)}; restore it from a copy") from error


def _read_journal(file: Path) -> list[ShardRecord]:
    """Return the shards; none if there is no journal, which appears with the first of them."""
    lines = read_bytes(file, most=MOST_BYTES_OF_LINES).split(b"\n")[:-1] if file.exists() else []
    shards = []
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
            if not take_check(row):
                log.warning("%s: line %d was changed since written, or is damaged: its checksum differs", file, number)
            shards.append(validated(ShardRecord, row))
        except ValidationError as error:
            raise DataError(f"{file}: line {number} is damaged at {_where(error)}; restore it from a copy") from error
        except ValueError as error:
            raise DataError(f"{file}: line {number} is damaged at its end: {error}; restore it from a copy") from error
    return shards


def _where(error: ValidationError) -> str:
    """Return the first error: where it is, and what it is."""
    return first_mistake(error) if error.errors()[0]["loc"] else f"its end: {first_mistake(error)}"
