"""Samples of a tar archive in the manner of WebDataset: neighbouring members of one key."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Final

from prelar_ray.errors import DataError
from prelar_ray.sources.files import check_readable
from prelar_ray.storage.json_text import parse_json

__all__ = ["Sample", "samples"]

_VIDEOS: Final = frozenset({"mp4", "m4v", "mov", "webm", "mkv", "avi"})
_PICTURES: Final = frozenset({"jpg", "jpeg", "png", "webp", "bmp"})
_TEXTS: Final = ("cls", "txt", "json")
"""What may name a sample, the first that is there."""
_CAPTIONS: Final = ("label", "class", "caption", "text")
"""Keys of a JSON object that may name a sample."""
_NUMBERED: Final = re.compile(r"(?P<key>.*?)[._-]?(?P<number>[0-9]+)")
_NAME_LENGTH: Final = 200


@dataclass(frozen=True)
class _Member:
    name: str
    """Archive and name in it, for errors."""
    key: str
    suffix: str
    number: int = 0
    data: bytes = b""


@dataclass(frozen=True)
class Sample:
    """One video, or the pictures of one, from front to back."""

    is_video: bool
    files: tuple[tuple[bytes, str], ...]
    """Content, and where it comes from."""
    text: str
    """Class or caption, or empty."""
    gaps: tuple[str, ...]
    """Numbers that are missing between pictures."""


def samples(path: Path, load: bool = True) -> Iterator[Sample]:
    """Yield the samples of an archive; without ``load`` they have no content, which is quicker to count.

    Raises:
        DataError: the archive is missing, damaged, cut short, or not sorted. Samples before are good.
    """
    seen: set[str] = set()
    group: list[_Member] = []
    texts: dict[str, dict[str, bytes]] = {}
    for member in _members(path, load):
        if member.suffix in _TEXTS:
            texts.setdefault(member.key, {})[member.suffix] = member.data
            continue
        if group and member.key != group[0].key:
            yield from _of_group(group, texts.get(group[0].key, {}))
            group, texts = [], {key: found for key, found in texts.items() if key == member.key}
        if not group and member.key in seen:
            raise DataError(f"{member.name}: not next to the others of {member.key}; make it with `tar --sort=name`")
        seen.add(member.key)
        group.append(member)
    if group:
        yield from _of_group(group, texts.get(group[0].key, {}))


def _of_group(group: list[_Member], texts: dict[str, bytes]) -> Iterator[Sample]:
    text = next((_text(suffix, texts[suffix]) for suffix in _TEXTS if suffix in texts), "")
    for video in group:
        if video.suffix in _VIDEOS:
            yield Sample(True, ((video.data, video.name),), text, ())
    pictures = sorted((member for member in group if member.suffix in _PICTURES), key=lambda member: member.number)
    if pictures:
        numbers = [member.number for member in pictures]
        gaps = [f"{last + 1} to {first - 1}" for last, first in pairwise(numbers) if first > last + 1]
        notes = (f"{pictures[0].name}: no pictures {', '.join(gaps)}",) if gaps else ()
        yield Sample(False, tuple((member.data, member.name) for member in pictures), text, notes)


def _members(path: Path, load: bool) -> Iterator[_Member]:
    """Yield the members that matter, those of videos and pictures with content only if ``load``."""
    check_readable(path)
    try:
        with tarfile.open(path, "r:*") as archive:
            for info in archive:
                member = _named(path, info.name) if info.isreg() else None
                if member is not None:
                    wanted = load or member.suffix in _TEXTS
                    content = archive.extractfile(info) if wanted else None
                    data = content.read() if content else b""
                    yield _Member(member.name, member.key, member.suffix, member.number, data)
            if archive.fileobj is not None:  # tarfile ends in silence at a member whose header is damaged
                archive.fileobj.seek(archive.offset)
                if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.ReadError("damaged header")
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: not a readable archive, or cut short ({reason}); restore it from a copy") from error


def _named(path: Path, name: str) -> _Member | None:
    """Return what a member's name says, or None if it is neither video, picture nor text of a sample."""
    pure = PurePosixPath(name)
    folder, file = str(pure.parent), pure.name
    stem, _, extension = file.partition(".")
    suffix = extension.lower().rpartition(".")[2]
    if not stem or suffix not in {*_VIDEOS, *_PICTURES, *_TEXTS}:
        return None
    where = f"{path}: {name}"
    key = str(pure.parent / stem)
    numbered = _NUMBERED.fullmatch(file[: -len(suffix) - 1]) if suffix in _PICTURES else None
    if numbered is None:
        return _Member(where, key, suffix)
    if not numbered["key"] and folder == ".":
        raise DataError(
            f"{where}: a number alone does not say of which video; name it <key>_{numbered['number']}.{suffix}"
        )
    return _Member(where, str(pure.parent / numbered["key"]), suffix, int(numbered["number"]))


def _text(suffix: str, data: bytes) -> str:
    """Return the name in a text of a sample, in one line, or nothing."""
    text = data.decode("utf-8", "replace")
    if suffix == "json":
        try:
            content = parse_json(text)
        except ValueError:
            return ""
        if isinstance(content, dict):
            content = next((content[key] for key in _CAPTIONS if isinstance(content.get(key), str | int)), "")
        text = str(content) if isinstance(content, str | int) else ""
    return " ".join(text.split())[:_NAME_LENGTH]
