from __future__ import annotations

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelar_ray.errors import DataError
from prelar_ray.storage.arrow import ArrayFile, Compression, checksum, read_arrays, write_arrays
from prelar_ray.video.seen import SeenVideos
from prelar_ray.video.store import VideoStore, VideoWriter
from tests.video.stores import (
    ATTRIBUTES,
    assert_holds,
    edit_first_line,
    edit_manifest,
    episode,
    episodes_of,
    lines,
    record,
    to_version_1,
)


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=5),
    st.integers(1, 100),
    st.sampled_from(["none", "lz4", "zstd"]),
    st.text(max_size=5),
    st.integers(0, 2**32),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    shard_frames: int,
    compression: Compression,
    name: str,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(seed)
    episodes = [rng.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8) // 128 for length in lengths]
    with VideoWriter(path, ATTRIBUTES, shard_frames, compression) as writer:
        for index, frames in enumerate(episodes):
            writer.append(frames, f"{name}{index}")
    store = VideoStore(path)
    assert_holds(store, episodes)
    assert store.sources == [f"{name}{index}" for index in range(len(lengths))]
    assert (store.attributes, store.damaged, store.compression) == (ATTRIBUTES, [], compression)
    for shard in lines(path)[:-1]:  # closed by the episode that reached the size
        assert shard["frames"] >= shard_frames > shard["frames"] - shard["lengths"][-1]
    chosen = int(rng.integers(len(lengths)))
    start, stop = sorted(rng.integers(0, lengths[chosen] + 1, size=2).tolist())
    out = np.empty((stop - start, 64, 64, 3), np.uint8)
    assert store.read(chosen, start, stop, out=out) is out
    np.testing.assert_array_equal(out, episodes[chosen][start:stop])
    np.testing.assert_array_equal(store.read(chosen, start, stop), out)
    assert store.read(0, 0, 1).flags.writeable == (compression != "none")  # a view of the mapped file


def test_compressed_shards_are_smaller_and_a_clip_decodes_few_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None, None], (200, 64, 64, 3))
    for compression in ("none", "lz4", "zstd"):
        with VideoWriter(tmp_path / compression, {}, 1000, compression) as writer:
            writer.append(frames, "a")
    plain, *packed = (VideoStore(tmp_path / name).bytes for name in ("none", "lz4", "zstd"))
    assert max(packed) < plain / 20
    store, decoded = VideoStore(tmp_path / "lz4"), []
    store.frames(0)
    batch = ArrayFile._batch
    monkeypatch.setattr(ArrayFile, "_batch", lambda self, index: (decoded.append(index), batch(self, index))[1])
    np.testing.assert_array_equal(store.read(0, 60, 85), frames[60:85])
    assert decoded == [1, 2]


def test_frames_that_an_episode_does_not_have_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "videos", [3, 4])
    store = VideoStore(tmp_path / "videos")
    for start, stop in [(0, 4), (-1, 2), (2, 1)]:
        with pytest.raises(IndexError, match="episode 0 has 3 frames"):
            store.read(0, start, stop)  # they would be of the next episode


def test_threads_that_read_a_store_at_once_get_the_right_frames(tmp_path: Path) -> None:
    episodes = [episode(40, seed) for seed in range(6)]
    with VideoWriter(tmp_path / "videos", {}, 80, "lz4") as writer:
        for frames in episodes:
            writer.append(frames, "a")
    store = VideoStore(tmp_path / "videos")
    with ThreadPoolExecutor(4) as pool:
        order = [index % 6 for index in range(48)]
        for index, frames in zip(order, pool.map(store.frames, order), strict=True):
            np.testing.assert_array_equal(frames, episodes[index])


def test_files_hold_frames_and_nothing_else(tmp_path: Path) -> None:
    record(tmp_path / "videos", [4, 4, 4])
    files = sorted(file.name for file in (tmp_path / "videos").iterdir())
    assert files == ["manifest.json", "shard-00000.arrow", "shard-00001.arrow", "shards.jsonl"]
    for name in files[1:3]:
        with pa.memory_map(str(tmp_path / "videos" / name)) as source:
            schema = pa.ipc.open_file(source).schema
        assert schema.names == ["frames"]
        assert schema.field("frames").type == pa.fixed_shape_tensor(pa.uint8(), (64, 64, 3))
        assert set(schema.metadata) == {b"episodes"}
        assert {key for entry in json.loads(schema.metadata[b"episodes"]) for key in entry} == {"source", "length"}
    text = "".join((tmp_path / "videos" / name).read_text() for name in ("manifest.json", "shards.jsonl"))
    assert "action" not in text
    assert "reward" not in text


def test_manifest_and_journal_describe_the_store(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    record(path, [4, 3, 5])
    manifest = json.loads((path / "manifest.json").read_text())
    assert len(manifest.pop("checksum")) == 8
    assert manifest == {
        "format": "prelar_ray/video",
        "version": 2,
        "attributes": ATTRIBUTES,
        "complete": True,
        "compression": "none",
        "image_size": 64,
        "shards": 2,
    }
    first, second = lines(path)
    assert (first["file"], first["frames"], first["note"]) == ("shard-00000.arrow", 7, {})
    assert (second["sources"], second["lengths"]) == (["metaworld/task-2"], [5])
    assert first["bytes"] == (path / "shard-00000.arrow").stat().st_size
    assert first["sha256"] == checksum(path / "shard-00000.arrow")


def test_a_store_of_version_1_is_read_and_its_videos_are_those_a_run_has_seen(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    episodes = record(path, [4, 4, 4])
    new = VideoStore(path)
    seen = SeenVideos.of(new, [1])
    to_version_1(path)
    old = VideoStore(path)
    assert_holds(old, episodes)
    assert (old.sources, old.attributes, old.complete, old.notes) == (new.sources, ATTRIBUTES, True, [{}, {}])
    assert seen.held_out(old) == seen.unseen(old) == [1]


def test_a_store_of_other_frames_is_refused_when_opened(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    record(path, [2])
    (shard,) = lines(path)
    small = {"frames": np.zeros((2, 48, 48, 3), np.uint8)}
    info = write_arrays(path / shard["file"], small, {"episodes": episodes_of(shard)})
    edit_first_line(path, bytes=info.bytes, sha256=info.sha256)
    with pytest.raises(DataError, match=r"shard-00000\.arrow: frames have shape \(2, 48, 48, 3\), expected"):
        VideoStore(path)


def test_a_shard_with_more_than_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    record(path, [2])
    (shard,) = lines(path)
    columns: dict[str, npt.NDArray[Any]] = {"frames": episode(2), "action": np.zeros((2, 4), np.float32)}
    info = write_arrays(path / shard["file"], columns, {"episodes": episodes_of(shard)})
    edit_first_line(path, bytes=info.bytes, sha256=info.sha256)
    with pytest.raises(DataError, match="holds frames, action, expected frames and nothing else"):
        VideoStore(path)


def test_missing_empty_and_foreign_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: no such folder.*--videos"):
        VideoStore(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: a file, expected a folder; .*--videos"):
        VideoStore(tmp_path / "file")
    with pytest.raises(DataError, match=r"no manifest\.json in it"):
        VideoStore(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(DataError, match="not the manifest of a video store"):
        VideoStore(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="not the manifest of a video store"):
        VideoStore(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b'{"format": "\xff')
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read"):
        VideoStore(tmp_path)


def test_a_store_of_a_later_version_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "videos", [2])
    edit_manifest(tmp_path / "videos", version=3, layout="new")
    with pytest.raises(DataError, match="format version 3, this release reads 2; update"):
        VideoStore(tmp_path / "videos")


DAMAGE = [{"frames": 99}, {"file": "../shard-00000.arrow"}, {"lengths": 3}, {"lengths": [2, 0]}, {"extra": 1}]


@pytest.mark.parametrize("change", DAMAGE)
def test_a_damaged_journal_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "videos"
    record(path, [2])
    edit_first_line(path, **change)
    with pytest.raises(DataError, match=r"shards\.jsonl: line 1 is damaged at .*; restore it from a copy"):
        VideoStore(path)


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    record(path, [2])
    edit_manifest(path, compression="rar")
    with pytest.raises(DataError, match=r"manifest\.json: damaged at compression"):
        VideoStore(path)


@pytest.mark.parametrize(
    "change", [{"frames": 99}, {"file": "../shard-00000.arrow"}, {"episodes": 3}, {"extra": 1}], ids=str
)
def test_a_damaged_manifest_of_version_1_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "videos"
    record(path, [2])
    to_version_1(path)
    (shard,) = json.loads((path / "manifest.json").read_text())["shards"]
    edit_manifest(path, shards=[{**shard, **change}])
    with pytest.raises(DataError, match=r"manifest\.json: damaged at shards\.0"):
        VideoStore(path)


def test_a_last_line_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    with VideoWriter(path, {}, 3) as writer:
        writer.append(episode(3), "a")
        with (path / "shards.jsonl").open("a") as journal:
            journal.write('{"file": "shard-00001.arrow", "frames"')
        store = VideoStore(path)
        assert_holds(store, [episode(3)])
        assert store.refresh() is False


def test_a_complete_store_that_lost_lines_of_its_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    record(path, [3, 3, 3], shard_frames=3)
    journal = path / "shards.jsonl"
    journal.write_bytes(journal.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"shards\.jsonl: names 2 of the store's 3 shards; restore it"):
        VideoStore(path)
    journal.unlink()
    with pytest.raises(DataError, match=r"shards\.jsonl: names 0 of the store's 3 shards"):
        VideoStore(path)


def test_a_recording_without_an_episode_is_refused(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "videos", {}, 10):
        pass
    with pytest.raises(DataError, match="holds no episodes"):
        VideoStore(tmp_path / "videos")


def test_every_flipped_bit_is_noticed_by_name(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    record(path, [3, 3, 3], shard_frames=3)
    shard = path / "shard-00001.arrow"
    content = shard.read_bytes()
    for bit in np.random.default_rng(3).integers(len(content) * 8, size=40).tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match=r"shard-00001\.arrow: the checksum differs.*--skip-bad"):
            VideoStore(path)


@pytest.mark.parametrize("verify", [True, False])
def test_every_truncation_is_noticed_by_name(tmp_path: Path, verify: bool) -> None:
    path = tmp_path / "videos"
    record(path, [3, 3, 3], shard_frames=3)
    shard = path / "shard-00001.arrow"
    content = shard.read_bytes()
    for length in [0, len(content) - 1, *np.random.default_rng(4).integers(len(content), size=20).tolist()]:
        shard.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"shard-00001\.arrow: \d+ bytes, expected .*video\.skip_bad=true"):
            VideoStore(path, verify=verify)


def test_skip_bad_leaves_damaged_shards_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "videos"
    episodes = record(path, [3, 4, 5, 6], shard_frames=3)
    with (path / "shard-00001.arrow").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    (path / "shard-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"shard-00001\.arrow: the checksum.*shard-00002\.arrow: missing"):
        VideoStore(path)
    with caplog.at_level(logging.WARNING):
        store = VideoStore(path, skip_bad=True)
    assert_holds(store, [episodes[0], episodes[3]])
    assert store.sources == ["metaworld/task-0", "metaworld/task-3"]
    assert store.damaged == ["shard-00001.arrow", "shard-00002.arrow"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "shard-00001.arrow is left out" in caplog.text
    assert store.refresh() is False  # a damaged shard is not looked at twice


def test_skip_bad_refuses_when_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    record(path, [3])
    (path / "shard-00000.arrow").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no episodes \(1 damaged shard left out\)"):
        VideoStore(path, skip_bad=True)


def test_a_shard_of_another_store_is_noticed_without_checksums(tmp_path: Path) -> None:
    record(tmp_path / "one", [3, 4], shard_frames=100)
    record(tmp_path / "two", [4, 3], shard_frames=100)
    shutil.copy(tmp_path / "two" / "shard-00000.arrow", tmp_path / "one")
    with pytest.raises(DataError, match="it is of another store"):
        VideoStore(tmp_path / "one", verify=False).frames(0)


def test_checksums_are_compared_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    record(path, [3])
    shard = path / "shard-00000.arrow"
    frame = read_arrays(shard)[0]["frames"][1].tobytes()
    content = shard.read_bytes()
    shard.write_bytes(content.replace(frame, bytes(len(frame))))
    with pytest.raises(DataError, match="checksum"):
        VideoStore(path)
    assert not VideoStore(path, verify=False).frames(0)[1].any()


def test_a_store_is_read_while_it_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    first, second, third = episode(3, 1), episode(4, 2), episode(5, 3)
    with VideoWriter(path, ATTRIBUTES, shard_frames=7) as writer:
        with pytest.raises(DataError, match="holds no episodes"):
            VideoStore(path)
        writer.append(first, "a")
        writer.append(second, "b")
        store = VideoStore(path)
        assert_holds(store, [first, second])
        early = store.frames(1)
        writer.append(third, "c")
        assert store.refresh() is False
    assert store.refresh() is True
    assert_holds(store, [first, second, third])
    np.testing.assert_array_equal(early, second)


def test_a_recording_that_did_not_end_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "videos"
    with VideoWriter(path, {}, 4) as writer:
        writer.append(episode(4), "a")
        store = VideoStore(path)
        assert caplog.messages == [
            f"{path}: its recording was interrupted or is in progress; used as far as it goes: 1 episode, 4 frames"
        ]
        writer.append(episode(2), "a")
    assert not store.complete
    assert store.refresh()
    assert store.complete
    assert VideoStore(path).complete
    assert len(caplog.messages) == 1


def test_stores_from_before_completeness_was_noted_count_as_complete(tmp_path: Path) -> None:
    record(tmp_path / "videos", [2])
    to_version_1(tmp_path / "videos")
    manifest = json.loads((tmp_path / "videos" / "manifest.json").read_text())
    del manifest["complete"]
    (tmp_path / "videos" / "manifest.json").write_text(json.dumps(manifest))
    assert VideoStore(tmp_path / "videos").complete


def test_a_store_that_is_replaced_while_in_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    record(path, [3])
    store = VideoStore(path)
    shutil.rmtree(path)
    record(path, [4, 5])
    with pytest.raises(DataError, match="replaced by another recording"):
        store.refresh()


def test_a_shard_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "videos", [4, 4, 4])
    journal = tmp_path / "videos" / "shards.jsonl"
    first, *others = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([first, *others, first]))
    edit_manifest(tmp_path / "videos", shards=len(others) + 2)
    with pytest.raises(DataError, match=r"shards.jsonl: names shard-00000.arrow twice"):
        VideoStore(tmp_path / "videos")


@pytest.mark.parametrize("change", [{"sha256": "../../precious"}, {"bytes": -1}, {"frames": "4"}, {"lengths": ["4"]}])
def test_a_line_of_the_journal_that_names_something_else_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    record(tmp_path / "videos", [4])
    edit_first_line(tmp_path / "videos", **change)
    with pytest.raises(DataError, match=rf"shards.jsonl: line 1 is damaged at {next(iter(change))}"):
        VideoStore(tmp_path / "videos")
