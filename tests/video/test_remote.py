"""Stores at an address: file:// here, and S3 against a real server where moto is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

import prelar_ray
from prelar_ray.config import VideoConfig
from prelar_ray.errors import DataError
from prelar_ray.video import remote
from prelar_ray.video.clips import ClipSampler
from prelar_ray.video.store import VideoStore, VideoWriter
from tests.video.stores import assert_holds, episode, lines, record, to_version_1


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(path: Path | str, cache: Path, again: bool = False, skip_bad: bool = False) -> VideoStore:
    address = path if isinstance(path, str) else f"file://{path}"
    return VideoStore.open(address, VideoConfig(cache=str(cache), skip_bad=skip_bad), verify_again=again)


def copies(cache: Path) -> set[str]:
    """Checksums of the shards that are here."""
    return {path.stem for path in cache.glob("*/*.arrow")}


def checksums(path: Path) -> list[str]:
    return [line["sha256"] for line in lines(path)]


def test_shards_are_copied_when_they_are_first_read(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "videos"
    episodes = record(path, [3, 4, 5], shard_frames=3)
    store = opened(path, cache)
    assert copies(cache) == set()
    np.testing.assert_array_equal(store.frames(1), episodes[1])
    assert copies(cache) == {checksums(path)[1]}
    assert_holds(store, episodes)
    assert copies(cache) == set(checksums(path))
    assert sorted(file.suffix for file in cache.glob("*/*")) == [".arrow"] * 3 + [".json", ".jsonl"]
    shutil.move(path / "shard-00000.arrow", tmp_path / "gone")
    assert_holds(store, episodes)  # nothing is read twice


def test_a_clip_of_a_remote_store_is_that_of_the_store(tmp_path: Path, cache: Path) -> None:
    with VideoWriter(tmp_path / "videos", {}, 50, "zstd") as writer:
        for seed in range(4):
            writer.append(episode(40, seed), "a")
    here, there = (
        ClipSampler(store, 5, 9, np.random.default_rng(0))
        for store in (VideoStore(tmp_path / "videos"), opened(tmp_path / "videos", cache))
    )
    np.testing.assert_array_equal(here.sample(), there.sample())


def test_the_next_run_reads_the_copies(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = record(tmp_path / "videos", [3, 4], shard_frames=3)
    assert_holds(opened(tmp_path / "videos", cache), episodes)
    fetched: list[str] = []
    copy = remote.RemoteFolder._copy
    monkeypatch.setattr(
        remote.RemoteFolder, "_copy", lambda self, name, *more: (fetched.append(name), copy(self, name, *more))
    )
    assert_holds(opened(tmp_path / "videos", cache), episodes)
    assert fetched == ["manifest.json", "shards.jsonl"]


def test_copies_lie_in_the_users_cache_folder_unless_a_setting_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    record(tmp_path / "videos", [3])
    VideoStore.open(f"file://{tmp_path}/videos", VideoConfig()).frames(0)
    assert copies(tmp_path / "xdg" / "prelar_ray" / "videos") == set(checksums(tmp_path / "videos"))


def test_stores_of_version_1_and_stores_in_progress_are_read(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "videos"
    with VideoWriter(path, {}, 3) as writer:
        writer.append(episode(3), "a")
        store = opened(path, cache)
        assert (len(store), store.complete) == (1, False)
        writer.append(episode(4), "b")
        assert store.refresh()
    assert_holds(store, [episode(3), episode(4)])
    to_version_1(path)
    assert_holds(opened(path, cache), [episode(3), episode(4)])


def test_a_store_that_is_replaced_never_mixes_with_copies_of_the_former(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "videos"
    for seed in range(2):
        shutil.rmtree(path, ignore_errors=True)
        with VideoWriter(path, {}, 3) as writer:
            writer.append(episode(3, seed), "same")  # files of the same name and size
        assert_holds(opened(path, cache), [episode(3, seed)])


def test_damage_there_is_named_by_the_address(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "videos"
    episodes = record(path, [3, 4, 5], shard_frames=3)
    content = bytearray((path / "shard-00000.arrow").read_bytes())
    content[-2000] ^= 1
    (path / "shard-00000.arrow").write_bytes(content)
    store = opened(path, cache)
    with pytest.raises(DataError, match=rf"^file://{path}: shard-00000\.arrow: the checksum differs"):
        store.frames(0)
    assert copies(cache) == set()
    with pytest.raises(DataError, match=rf"^file://{path}: shard-00000\.arrow: the checksum differs"):
        opened(path, cache, again=True)
    assert_holds(opened(path, cache, again=True, skip_bad=True), episodes[1:])
    (path / "shard-00001.arrow").unlink()
    (path / "shard-00002.arrow").write_bytes(b"short")
    with pytest.raises(DataError, match=r"shard-00001\.arrow: missing; .*shard-00002\.arrow: 5 bytes, expected"):
        opened(path, cache)


def test_a_damaged_copy_is_fetched_again_when_all_are_verified(tmp_path: Path, cache: Path) -> None:
    episodes = record(tmp_path / "videos", [3])
    assert_holds(opened(tmp_path / "videos", cache), episodes)
    (copy,) = cache.glob("*/*.arrow")
    content = bytearray(copy.read_bytes())
    content[-2000] ^= 1
    copy.write_bytes(content)
    assert_holds(opened(tmp_path / "videos", cache, again=True), episodes)
    copy.write_bytes(b"cut")
    assert_holds(opened(tmp_path / "videos", cache), episodes)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nfs4://host/videos", "^nfs4://host/videos: .*give video.path an address such as s3://bucket/videos"),
        ("file:///absent/videos", r"^file:///absent/videos: no manifest\.json there, so it is not a video store"),
    ],
)
def test_addresses_without_a_store_are_named(address: str, reason: str, cache: Path) -> None:
    with pytest.raises(DataError, match=reason):
        opened(address, cache)


def test_messages_show_no_key(cache: Path) -> None:
    assert remote._shown("s3://key:secret@bucket/a@b/videos?endpoint_override=x") == "s3://bucket/a@b/videos"


KILLED = """
import os, signal
from prelar_ray.config import VideoConfig
from prelar_ray.video import remote
from prelar_ray.video.store import VideoStore
chunks = remote.RemoteFolder._chunks
def killed(self, name):
    for chunk in chunks(self, name):
        yield chunk[:100]
        if name == "shard-00001.arrow":
            os.kill(os.getpid(), signal.SIGKILL)
        yield chunk[100:]
remote.RemoteFolder._chunks = killed
store = VideoStore.open({address!r}, VideoConfig(cache={cache!r}))
store.frames(0), store.frames(1)
"""


@pytest.mark.faults
def test_a_copy_that_was_cut_off_is_made_again_and_the_others_stay(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "videos"
    episodes = record(path, [3, 4], shard_frames=3)
    program = KILLED.format(address=f"file://{path}", cache=str(cache))
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(prelar_ray.__file__).parents[1], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert copies(cache) == {checksums(path)[0]}
    (partial,) = cache.glob("*/*.part")
    assert_holds(opened(path, cache), episodes)
    assert partial.exists()  # another process may be at it
    os.utime(partial, (0, 0))
    opened(path, cache)
    assert not partial.exists()


def test_two_that_copy_at_once_do_no_harm(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = record(tmp_path / "videos", [3, 4], shard_frames=3)
    stores = [opened(tmp_path / "videos", cache) for _ in range(2)]
    chunks = remote.RemoteFolder._chunks

    def slow(self: remote.RemoteFolder, name: str) -> Iterator[bytes]:
        for chunk in chunks(self, name):
            yield chunk[:10]
            time.sleep(0.02)
            yield chunk[10:]

    monkeypatch.setattr(remote.RemoteFolder, "_chunks", slow)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda store: assert_holds(store, episodes), stores))
    assert copies(cache) == set(checksums(tmp_path / "videos"))
    assert not list(cache.glob("*/*.part"))


def test_a_full_disk_here_is_named(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "videos", [3])
    store = opened(tmp_path / "videos", cache)

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=rf"^{cache}/.*cannot write: No space left"):
            store.frames(0)
    assert not list(cache.glob("*/*.part"))
    store.frames(0)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Address of a bucket of a server that speaks S3; the second part has the options."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    )
    options = f"endpoint_override=127.0.0.1%3A{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline
            assert server.poll() is None
            time.sleep(0.1)
        filesystem, _ = fs.FileSystem.from_uri(f"s3://key:secret@bucket/?{options}")
        filesystem.create_dir("bucket")
        yield f"s3://key:secret@bucket/videos?{options}"
    finally:
        server.terminate()
        server.wait(30)


def test_a_store_in_a_bucket_is_trained_on_and_damage_in_it_found(bucket: str, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "videos"
    episodes = record(path, [30, 40, 50], shard_frames=30)
    filesystem, base = fs.FileSystem.from_uri(bucket)
    fs.copy_files(str(path), base, fs.LocalFileSystem(), filesystem)
    store = opened(bucket, cache)
    clips = ClipSampler(store, 4, 9, np.random.default_rng(0)).sample()
    np.testing.assert_array_equal(clips, ClipSampler(VideoStore(path), 4, 9, np.random.default_rng(0)).sample())
    assert_holds(store, episodes)
    shutil.rmtree(cache)
    with filesystem.open_output_stream(f"{base}/shard-00001.arrow") as damaged:
        damaged.write(bytes((path / "shard-00001.arrow").stat().st_size))
    with pytest.raises(DataError, match=r"^s3://bucket/videos: shard-00001\.arrow: the checksum differs"):
        opened(bucket, cache, again=True)
    filesystem.delete_file(f"{base}/shard-00001.arrow")
    with pytest.raises(DataError, match=r"^s3://bucket/videos: shard-00001\.arrow: missing"):
        opened(bucket, cache)


def test_a_bucket_that_is_not_there_is_named(bucket: str, cache: Path) -> None:
    with pytest.raises(DataError, match=r"^s3://nobody/videos: (no manifest|cannot be read)"):
        opened(bucket.replace("@bucket/", "@nobody/"), cache)
