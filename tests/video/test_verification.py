from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from prelar_ray.errors import DataError
from prelar_ray.storage import arrow
from prelar_ray.video import shard, verification
from prelar_ray.video.store import VideoStore, VideoWriter
from tests.video.stores import episode, record


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the shards whose checksums were compared; the user's cache folder is a new one."""
    names: list[str] = []

    def counted(path: Path) -> str:
        names.append(path.name)
        return arrow.checksum(path)

    monkeypatch.setattr(shard, "checksum", counted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return names


def cached(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "prelar_ray" / "verified").glob("*.json"))


def damage(path: Path) -> None:
    """Flip a bit, as a disk does: neither size nor time change."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


SHARDS = ["shard-00000.arrow", "shard-00001.arrow"]


def test_checksums_are_compared_once(tmp_path: Path, compared: list[str]) -> None:
    record(tmp_path / "videos", [4, 4], shard_frames=4)
    VideoStore(tmp_path / "videos")
    assert sorted(compared) == SHARDS
    VideoStore(tmp_path / "videos")
    VideoStore(tmp_path / "videos", verify=False)
    assert sorted(compared) == SHARDS
    assert not cached(tmp_path)


def test_a_shard_that_changed_is_compared_again_and_no_other(tmp_path: Path, compared: list[str]) -> None:
    record(tmp_path / "videos", [4, 4], shard_frames=4)
    VideoStore(tmp_path / "videos")
    compared.clear()
    file = tmp_path / "videos" / SHARDS[1]
    damage(file)
    os.utime(file, ns=(0, 10**18))
    with pytest.raises(DataError, match=r"shard-00001\.arrow: the checksum differs"):
        VideoStore(tmp_path / "videos")
    with pytest.raises(DataError, match=r"shard-00001\.arrow: the checksum differs"):
        VideoStore(tmp_path / "videos")  # damage is not remembered as right
    assert compared == [SHARDS[1]] * 2


def test_all_are_compared_again_when_asked(tmp_path: Path, compared: list[str]) -> None:
    record(tmp_path / "videos", [4, 4], shard_frames=4)
    VideoStore(tmp_path / "videos")
    damage(tmp_path / "videos" / SHARDS[0])
    VideoStore(tmp_path / "videos")  # what nobody can see without reading all
    for _ in range(2):
        with pytest.raises(DataError, match=r"shard-00000\.arrow: the checksum differs"):
            VideoStore(tmp_path / "videos", verify=True)
    with pytest.raises(DataError, match=r"shard-00000\.arrow: the checksum differs"):
        VideoStore(tmp_path / "videos")  # found once, it is no longer taken to be right


def test_shards_written_since_are_compared(tmp_path: Path, compared: list[str]) -> None:
    with VideoWriter(tmp_path / "videos", {}, 4) as writer:
        writer.append(episode(4), "a")
        store = VideoStore(tmp_path / "videos")
        writer.append(episode(4, 1), "b")
        store.refresh()
    assert compared == SHARDS
    VideoStore(tmp_path / "videos")
    assert compared == SHARDS


def test_a_store_that_cannot_be_written_is_remembered_in_the_cache_folder(
    tmp_path: Path, compared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "videos", [4, 4], shard_frames=4)
    record(tmp_path / "other", [4, 4], shard_frames=4)
    write = verification.atomic_file

    def read_only(path: Path):
        if path.parent.name in ("videos", "other"):
            raise DataError(f"{path}: cannot write: Read-only file system")
        return write(path)

    monkeypatch.setattr(verification, "atomic_file", read_only)
    VideoStore(tmp_path / "videos")
    VideoStore(tmp_path / "videos")
    assert sorted(compared) == SHARDS
    assert len(cached(tmp_path)) == 1
    assert sorted(file.name for file in (tmp_path / "videos").glob("*.json")) == ["manifest.json"]
    VideoStore(tmp_path / "other")
    assert len(compared) == 4
    assert len(cached(tmp_path)) == 2


def test_where_nothing_can_be_remembered_all_is_compared_each_time(
    tmp_path: Path, compared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "videos", [4])
    (tmp_path / "cache").touch()  # a file, where a folder is needed
    monkeypatch.setattr(verification, "VERIFIED", "manifest.json/verified.json")
    for _ in range(2):
        VideoStore(tmp_path / "videos")
    assert compared == [SHARDS[0]] * 2


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"shard-00000.arrow": 3}'])
def test_a_damaged_memory_counts_for_nothing(tmp_path: Path, compared: list[str], content: bytes) -> None:
    record(tmp_path / "videos", [4])
    (tmp_path / "videos" / "verified.json").write_bytes(content)
    VideoStore(tmp_path / "videos")
    assert compared == [SHARDS[0]]
    assert list(json.loads((tmp_path / "videos" / "verified.json").read_bytes())) == [SHARDS[0]]


def test_another_store_in_the_same_place_is_compared(tmp_path: Path, compared: list[str]) -> None:
    record(tmp_path / "videos", [4])
    VideoStore(tmp_path / "videos")
    memory = (tmp_path / "videos" / "verified.json").read_bytes()
    before = (tmp_path / "videos" / SHARDS[0]).stat()
    shutil.rmtree(tmp_path / "videos")
    with VideoWriter(tmp_path / "videos", {}, 4) as writer:
        writer.append(episode(4, 7), "metaworld/task-0")  # of the same size
    (tmp_path / "videos" / "verified.json").write_bytes(memory)
    os.utime(tmp_path / "videos" / SHARDS[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    VideoStore(tmp_path / "videos")
    assert compared == [SHARDS[0]] * 2
