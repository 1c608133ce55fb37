from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import prelar_ray
from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.types import Frames
from prelar_ray.video.store import VideoStore, VideoWriter
from tests.video.stores import assert_holds, episode, files, record


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


def test_the_manifest_is_written_when_a_store_begins_and_when_it_ends(tmp_path: Path) -> None:
    manifest = tmp_path / "videos" / "manifest.json"
    with VideoWriter(tmp_path / "videos", {}, 2) as writer:
        begun = manifest.stat()
        for seed in range(3):
            writer.append(episode(2, seed), "a")
        assert (manifest.stat().st_ino, manifest.stat().st_mtime_ns) == (begun.st_ino, begun.st_mtime_ns)
    assert json.loads(manifest.read_text())["complete"]


@pytest.mark.parametrize("moment", ["shard", "last shard"])
def test_an_interrupt_waits_until_a_shard_and_its_line_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "videos"
    replace = os.replace
    interrupting = {"shard": "shard-00000.arrow", "last shard": "shard-00001.arrow"}

    def interrupted(temporary: Path, target: Path) -> None:
        if target.name == interrupting[moment]:
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
    before = files(path)
    with pytest.raises(RunFolderError, match="already holds a video store; choose a new folder name, or delete"):
        VideoWriter(path, {}, 10)
    assert files(path) == before
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
        before = files(path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(DataError, match=r"shard-00001\.arrow.*No space left"):
                writer.append(episode(3, 1), "b")
    del before["writer.lock"]
    assert files(path) == before  # leaving the block tried nothing more
    assert not VideoStore(path).complete
    assert_holds(VideoStore(path), [episode(3)])


def test_only_one_process_writes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with VideoWriter(path, {}, 3) as writer:
        writer.append(episode(3), "a")
        with pytest.raises(RunFolderError, match="store is being written by another process"):
            VideoWriter(path, {}, 3)
        with pytest.raises(RunFolderError, match="store is being written by another process"):
            VideoWriter.resume(path, 3)
        program = f"""
from pathlib import Path
from prelar_ray.errors import RunFolderError
from prelar_ray.video.store import VideoWriter
try:
    VideoWriter.resume(Path({str(path)!r}), 3)
except RunFolderError:
    raise SystemExit(7)
"""
        other = subprocess.run([sys.executable, "-c", program], cwd=Path(prelar_ray.__file__).parents[1], check=False)
        assert other.returncode == 7
    assert not (path / "writer.lock").exists()
    assert_holds(VideoStore(path), [episode(3)])


def test_a_note_is_kept_with_each_shard_and_describes_all_that_was_appended(tmp_path: Path) -> None:
    appended: list[str] = []
    with VideoWriter(tmp_path / "store", {}, 6, note=lambda: {"appended": list(appended)}) as writer:
        for name, length in [("a", 4), ("b", 4), ("c", 2)]:
            appended.append(name)
            writer.append(episode(length), name)
        assert writer.notes == [{"appended": ["a", "b"]}]
    assert VideoStore(tmp_path / "store").notes == [{"appended": ["a", "b"]}, {"appended": ["a", "b", "c"]}]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "store", {}, 3) as writer:
        with pytest.raises(DataError, match=r"'clip-\\udcff': is not Unicode text"):
            writer.append(episode(1), "clip-\udcff")
        writer.append(episode(1), "clip-\x00é\u2028")
    assert VideoStore(tmp_path / "store").sources == ["clip-\x00é\u2028"]
