from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prelar_ray
from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.storage.arrow import read_arrays, write_arrays
from prelar_ray.types import Frames
from prelar_ray.video.store import VideoStore, VideoWriter

ATTRIBUTES = {"camera": "corner", "orientation": "upright", "render_quality": "fast", "policy": "expert"}


def episode(length: int, seed: int = 0) -> Frames:
    return np.random.default_rng([seed, length]).integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)


def record(path: Path, lengths: list[int], shard_frames: int = 6) -> list[Frames]:
    episodes = [episode(length, seed) for seed, length in enumerate(lengths)]
    with VideoWriter(path, ATTRIBUTES, shard_frames) as writer:
        for index, frames in enumerate(episodes):
            writer.append(frames, f"metaworld/task-{index}")
    return episodes


def assert_holds(store: VideoStore, episodes: list[Frames]) -> None:
    assert len(store) == len(episodes)
    assert store.lengths.tolist() == [len(frames) for frames in episodes]
    assert store.total_frames == sum(len(frames) for frames in episodes)
    for index, frames in enumerate(episodes):
        np.testing.assert_array_equal(store.frames(index), frames)


def edit_manifest(path: Path, **changes: Any) -> None:
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))


@settings(max_examples=15)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(1, 12))
def test_what_is_recorded_is_read(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], shard_frames: int
) -> None:
    path = tmp_path_factory.mktemp("videos")
    episodes = record(path, lengths, shard_frames)
    store = VideoStore(path)
    assert_holds(store, episodes)
    assert store.sources == [f"metaworld/task-{index}" for index in range(len(lengths))]
    assert store.attributes == ATTRIBUTES
    assert store.damaged == []
    shards = json.loads((path / "manifest.json").read_text())["shards"]
    for shard in shards[:-1]:  # closed by the episode that reached the size
        assert shard["frames"] >= shard_frames > shard["frames"] - shard["episodes"][-1]["length"]


def test_files_hold_frames_and_nothing_else(tmp_path: Path) -> None:
    record(tmp_path / "videos", [4, 4, 4])
    files = sorted(file.name for file in (tmp_path / "videos").iterdir())
    assert files == ["manifest.json", "shard-00000.arrow", "shard-00001.arrow"]
    for name in files[1:]:
        with pa.memory_map(str(tmp_path / "videos" / name)) as source:
            schema = pa.ipc.open_file(source).schema
        assert schema.names == ["frames"]
        assert schema.field("frames").type == pa.fixed_shape_tensor(pa.uint8(), (64, 64, 3))
        assert set(schema.metadata) == {b"episodes"}
        assert {key for entry in json.loads(schema.metadata[b"episodes"]) for key in entry} == {"source", "length"}
    text = (tmp_path / "videos" / "manifest.json").read_text()
    assert "action" not in text
    assert "reward" not in text


def test_manifest_describes_the_shards(tmp_path: Path) -> None:
    record(tmp_path / "videos", [4, 3, 5])
    manifest = json.loads((tmp_path / "videos" / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["attributes"]) == ("prelar_ray/video", 1, ATTRIBUTES)
    first, second = manifest["shards"]
    assert (first["file"], first["frames"]) == ("shard-00000.arrow", 7)
    assert second["episodes"] == [{"source": "metaworld/task-2", "length": 5}]
    assert first["bytes"] == (tmp_path / "videos" / "shard-00000.arrow").stat().st_size
    assert len(first["sha256"]) == 64


def test_a_frame_buffer_may_be_reused_after_append(tmp_path: Path) -> None:
    frames = episode(3)
    expected = frames.copy()
    with VideoWriter(tmp_path / "videos", {}, 100) as writer:
        writer.append(frames, "a")
        frames[:] = 0
    np.testing.assert_array_equal(VideoStore(tmp_path / "videos").frames(0), expected)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((3, 64, 64, 3), np.float32), "push: frames are float32"),
        (np.zeros((3, 32, 32, 3), np.uint8), r"push: frames have shape \(3, 32, 32, 3\)"),
        (np.zeros((3, 3, 64, 64), np.uint8), "push: frames have shape"),
        (np.zeros((0, 64, 64, 3), np.uint8), "push: an episode without frames"),
    ],
)
def test_wrong_frames_are_refused_and_earlier_episodes_kept(tmp_path: Path, frames: Frames, message: str) -> None:
    with VideoWriter(tmp_path / "videos", {}, 100) as writer:
        writer.append(episode(2), "good")
        with pytest.raises(DataError, match=message):
            writer.append(frames, "push")
    assert_holds(VideoStore(tmp_path / "videos"), [episode(2)])


def test_a_store_of_other_frames_is_refused_when_opened(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    record(path, [2])
    shard = json.loads((path / "manifest.json").read_text())["shards"][0]
    info = write_arrays(
        path / shard["file"],
        {"frames": np.zeros((2, 32, 32, 3), np.uint8)},
        {"episodes": json.dumps(shard["episodes"])},
    )
    edit_manifest(path, shards=[{**shard, "bytes": info.bytes, "sha256": info.sha256}])
    with pytest.raises(DataError, match=r"shard-00000\.arrow: frames have shape \(2, 32, 32, 3\), expected"):
        VideoStore(path)


def test_a_shard_with_more_than_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    record(path, [2])
    shard = json.loads((path / "manifest.json").read_text())["shards"][0]
    columns: dict[str, npt.NDArray[Any]] = {"frames": episode(2), "action": np.zeros((2, 4), np.float32)}
    info = write_arrays(path / shard["file"], columns, {"episodes": json.dumps(shard["episodes"])})
    edit_manifest(path, shards=[{**shard, "bytes": info.bytes, "sha256": info.sha256}])
    with pytest.raises(DataError, match="holds frames, action, expected frames and nothing else"):
        VideoStore(path)


def test_missing_empty_and_foreign_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: no such folder.*video\.path"):
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
    edit_manifest(tmp_path / "videos", version=2, layout="new")
    with pytest.raises(DataError, match="format version 2, this release reads 1; update"):
        VideoStore(tmp_path / "videos")


@pytest.mark.parametrize("change", [{"frames": 99}, {"file": "../shard-00000.arrow"}, {"episodes": 3}, {"extra": 1}])
def test_a_damaged_manifest_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "videos"
    record(path, [2])
    shard = json.loads((path / "manifest.json").read_text())["shards"][0]
    edit_manifest(path, shards=[{**shard, **change}])
    with pytest.raises(DataError, match=r"manifest\.json: damaged at shards\.0"):
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
        VideoStore(tmp_path / "one", verify=False)


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


@pytest.mark.parametrize("moment", ["shard", "manifest", "last shard"])
def test_an_interrupt_waits_until_a_shard_and_its_manifest_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "videos"
    replace = os.replace
    interrupting = {"shard": "shard-00000.arrow", "manifest": "manifest.json", "last shard": "shard-00001.arrow"}

    def interrupted(temporary: Path, target: Path) -> None:
        if target.name == interrupting[moment] and (path / "manifest.json").exists():
            monkeypatch.setattr(os, "replace", replace)
            signal.raise_signal(signal.SIGINT)
        replace(temporary, target)

    monkeypatch.setattr(os, "replace", interrupted)
    appended = []
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, {}, 4) as writer:  # noqa: PT012
        for seed, length in enumerate([2, 2, 3]):
            appended.append(episode(length, seed))
            writer.append(appended[-1], "a")
    assert (writer.episodes, writer.frames) == (len(appended), sum(map(len, appended)))
    assert_holds(VideoStore(path), appended)


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


def test_a_killed_writer_leaves_its_finished_shards(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    program = f"""
import os, signal
from pathlib import Path
import numpy as np
from prelar_ray.video.store import VideoWriter
writer = VideoWriter(Path({str(path)!r}), {{}}, shard_frames=4)
for value in range(3):
    writer.append(np.full((2, 64, 64, 3), value, np.uint8), "a")
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(prelar_ray.__file__).parents[1], check=False)
    assert killed.returncode == -signal.SIGKILL
    (path / "shard-00001.arrow.tmp").write_bytes(b"half a shard")
    assert_holds(VideoStore(path), [np.full((2, 64, 64, 3), value, np.uint8) for value in range(2)])


def test_episodes_before_an_exception_are_kept(tmp_path: Path) -> None:
    def interrupted() -> None:
        with VideoWriter(tmp_path / "videos", {}, 100) as writer:
            writer.append(episode(2), "a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert_holds(VideoStore(tmp_path / "videos"), [episode(2)])


def test_a_writer_refuses_a_folder_with_anything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    record(path, [3])
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(RunFolderError, match="already holds a video store; choose a new folder name, or delete"):
        VideoWriter(path, {}, 10)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="already holds other files"):
        VideoWriter(tmp_path / "other", {}, 10)
    with pytest.raises(RunFolderError, match=r"thesis\.tex: no folder can be made here"):
        VideoWriter(tmp_path / "other" / "thesis.tex", {}, 10)


def test_a_full_disk_leaves_the_earlier_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "videos"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with VideoWriter(path, {}, 3) as writer:
        writer.append(episode(3), "a")
        before = {file.name: file.read_bytes() for file in path.iterdir()}
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(DataError, match=r"shard-00001\.arrow.*No space left"):
                writer.append(episode(3, 1), "b")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before  # leaving the block tried nothing more
    assert not VideoStore(path).complete
    assert_holds(VideoStore(path), [episode(3)])
