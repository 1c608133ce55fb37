from __future__ import annotations

import ast
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

import prelar_ray
from prelar_ray.config import EnvConfig, RecordConfig, RunConfig
from prelar_ray.envs.point_reach import PIXELS_PER_UNIT, SPEED
from prelar_ray.errors import DataError, RunFolderError
from prelar_ray.storage.arrow import read_arrays, write_arrays
from prelar_ray.types import IMAGE_SIZE, Frames
from prelar_ray.video.actions import ActionFile, ActionWriter, actions_path, copy_actions
from prelar_ray.video.recorder import record
from prelar_ray.video.store import VideoStore, VideoWriter

PACKAGE = Path(prelar_ray.__file__).parent


def configure(policy: str = "random", episodes: int = 3) -> RunConfig:
    settings = {
        "tasks": ("prelar/point-reach",),
        "policy": policy,
        "episodes_per_task": episodes,
        "frames_per_episode": 40,
        "shard_frames": 50,
        "workers": 1,
    }
    return RunConfig(env=EnvConfig(render_quality="fast"), record=RecordConfig.model_validate(settings))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of three random episodes; read only."""
    path = tmp_path_factory.mktemp("recorded") / "store"
    record(configure(), path, lambda frames: None)
    return path


def episode(seed: int, length: int = 4, size: int = 3) -> tuple[npt.NDArray[np.float32], Frames]:
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (length, size)).astype(np.float32)
    return action, rng.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)


def effector(frames: Frames) -> npt.NDArray[np.float64]:
    """Position ``(T, 2)`` of the red spot, from the pictures alone; NaN if the first does not show the target apart."""
    red, green, blue = (frames[..., i].astype(float) for i in range(3))
    target = (green - blue)[0]  # it stays; where both spots are bright blue is cut off, but red and green never are
    weight = (red - green + target).clip(0) ** 8  # the power keeps the border out of it
    pixels = (np.arange(IMAGE_SIZE) - (IMAGE_SIZE - 1) / 2) / PIXELS_PER_UNIT
    x, y = weight.sum(axis=1) @ pixels, -(weight.sum(axis=2) @ pixels)
    position = np.stack([x, y], axis=1) / weight.sum(axis=(1, 2))[:, None]
    return position if blue[0].min() > 0 else np.full_like(position, np.nan)


@pytest.mark.parametrize("policy", ["random", "expert"])
def test_each_action_is_the_one_that_led_to_its_frame(tmp_path: Path, policy: str) -> None:
    record(configure(policy), tmp_path / "store", lambda frames: None)
    store, actions = VideoStore(tmp_path / "store"), ActionFile(actions_path(tmp_path / "store"))
    right, late = [], []
    for index in range(len(store)):
        action, position = actions.of(store.frames(index)), effector(store.frames(index))
        assert action is not None
        assert not action[0].any()
        right.append(np.clip(position[:-1] + SPEED * action[1:], -1, 1) - position[1:])
        late.append(np.clip(position[:-1] + SPEED * action[:-1], -1, 1) - position[1:])
    assert np.isfinite(np.concatenate(right)).mean() > 0.1
    assert np.nanmax(np.abs(np.concatenate(right))) < 0.02
    assert np.nanmax(np.abs(np.concatenate(late))) > 0.05


def test_the_video_store_itself_holds_no_action(recorded: Path) -> None:
    assert not list(recorded.rglob("*action*"))
    for shard in recorded.glob("*.arrow"):
        with pa.memory_map(str(shard)) as source:
            assert pa.ipc.open_file(source).schema.names == ["frames"]
    stored = b"".join(file.read_bytes() for file in recorded.iterdir())
    values = read_arrays(actions_path(recorded))[0]["value"]
    for row in values[values != 0].reshape(-1, 2)[:20]:  # what is written beside it is nowhere in it
        assert row.tobytes() not in stored


def test_only_what_writes_stores_and_the_diagnostics_can_reach_the_actions() -> None:
    users = set()
    for path in PACKAGE.rglob("*.py"):
        modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        if "prelar_ray.video.actions" in modules or "actions.arrow" in path.read_text():
            users.add(path.relative_to(PACKAGE).as_posix())
    commands = {f"commands/{name}.py" for name in ("diagnose", "prepare", "record")}
    recorder = {f"video/{name}.py" for name in ("actions", "episodes", "recorder", "merge")}
    preparing = {name for name in users if name.startswith(("sources/", "preparation/"))}
    assert users <= {*recorder, *preparing, "training/diagnostics.py", "training/probing.py", *commands}


def test_what_is_written_is_found_by_its_frames_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "store.actions.arrow"
    episodes = [episode(seed, length, size) for seed, (length, size) in enumerate([(4, 3), (1, 2), (7, 4)])]
    with ActionWriter(path, 5) as writer:
        for action, frames in episodes:
            writer.append(action, frames, "test")
    actions = ActionFile(path)
    assert len(actions) == 3
    for action, frames in reversed(episodes):
        np.testing.assert_array_equal(actions.of(frames.copy()), action)
    assert actions.of(episodes[0][1][:3]) is None
    assert actions.of(255 - episodes[0][1]) is None


def test_the_motion_of_a_distractor_is_recorded_with_the_actions(tmp_path: Path) -> None:
    tasks = ("prelar/arena-reach-distractor", "prelar/arena-reach")
    config = configure()
    config = config.model_copy(update={"record": config.record.model_copy(update={"tasks": tasks})})
    record(config, tmp_path / "store", lambda frames: None)
    store, file = VideoStore(tmp_path / "store"), ActionFile(actions_path(tmp_path / "store"))
    for index in range(len(store)):
        found = file.find(store.frames(index))
        assert found is not None
        action, moved = found
        assert action.shape == (40, 2)
        assert (moved is not None) == (store.sources[index] == tasks[0])
        if moved is not None:
            assert not moved[0].any()
            path = moved.cumsum(0)  # 0.8 sin(phase + 0.11 t), so it turns back; no step is longer than 0.8 * 0.17
            assert 0 < np.abs(moved[1:]).max() < 0.8 * 0.17
            assert np.ptp(path, axis=0).min() > 0.5


def test_files_without_a_distractor_stay_as_they_were_and_of_the_first_version(tmp_path: Path, recorded: Path) -> None:
    metadata = read_arrays(actions_path(recorded))[1]
    assert metadata["version"] == "1"
    assert "nuisance" not in metadata["episodes"]
    action, frames = episode(0)
    with ActionWriter(tmp_path / "a.arrow", 100) as writer:
        writer.append(action, frames, "test", nuisance=action[:, :1])
    assert read_arrays(tmp_path / "a.arrow")[1]["version"] == "2"
    np.testing.assert_array_equal(ActionFile(tmp_path / "a.arrow").of(frames), action)


def test_the_motion_of_a_distractor_is_copied_and_continued_with_the_actions(tmp_path: Path) -> None:
    (action, frames), (other, more) = episode(0), episode(1)
    with ActionWriter(tmp_path / "a.arrow", 100) as writer:
        writer.append(action, frames, "test", nuisance=-action[:, :1])
    with ActionWriter(tmp_path / "a.arrow", 100, resume=1) as writer:
        writer.append(other, more, "test")
    copy_actions([tmp_path / "a.arrow"], tmp_path / "b.arrow")
    for name in ("a.arrow", "b.arrow"):
        first, second = (ActionFile(tmp_path / name).find(pictures) for pictures in (frames, more))
        assert first is not None
        assert second is not None
        np.testing.assert_array_equal(first[0], action)
        np.testing.assert_array_equal(first[1], -action[:, :1])
        np.testing.assert_array_equal(second[0], other)
        assert second[1] is None


def test_the_file_lies_beside_the_store_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos.v2").mkdir()
    expected = tmp_path / "videos.v2.actions.arrow"
    for name in ("videos.v2", "videos.v2/", "./videos.v2/../videos.v2"):
        assert actions_path(Path(name)) == expected.resolve()
    monkeypatch.chdir(tmp_path / "videos.v2")
    assert actions_path(Path()) == expected.resolve()


def test_actions_that_do_not_fit_the_frames_are_refused(tmp_path: Path) -> None:
    action, frames = episode(0)
    writer = ActionWriter(tmp_path / "a.arrow", 100)
    for wrong in (action[:-1], action[:, 0]):
        with pytest.raises(DataError, match=r"push: actions have shape .*, expected \(4, A\), one per frame"):
            writer.append(wrong, frames, "push")


def test_the_actions_of_an_earlier_recording_are_kept(tmp_path: Path, recorded: Path) -> None:
    path = tmp_path / "store"
    shutil.copy(actions_path(recorded), actions_path(path))
    before = actions_path(path).read_bytes()
    with pytest.raises(RunFolderError, match=r"store\.actions\.arrow already holds .*delete this file first"):
        record(configure(), path, lambda frames: None)
    assert not path.exists()
    assert actions_path(path).read_bytes() == before


@pytest.mark.parametrize("what", ["bit", "cut", "foreign", "version", "count"])
def test_damage_is_noticed_by_name(tmp_path: Path, recorded: Path, what: str) -> None:
    path = tmp_path / "store.actions.arrow"
    content = bytearray(actions_path(recorded).read_bytes())
    arrays, metadata = read_arrays(actions_path(recorded))
    if what == "bit":
        content[content.find(arrays["value"][2:6].tobytes())] ^= 1
        path.write_bytes(content)
    elif what == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        changes = {"foreign": {"format": "other"}, "version": {"version": "3"}, "count": {"episodes": "[]"}}
        write_arrays(path, arrays, metadata | changes[what])
    reason = {
        "bit": "checksum differs",
        "cut": "truncated",
        "foreign": "not a file of recorded actions",
        "version": "format version 3, this release reads 1, 2; update",
        "count": "checksum differs",
    }
    with pytest.raises(DataError, match=rf"store\.actions\.arrow: .*{reason[what]}"):
        ActionFile(path)


def test_every_video_that_survives_a_kill_has_its_actions(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    program = f"""
import os, signal
from pathlib import Path
import numpy as np
from prelar_ray.video import recorder, store

close = store.VideoWriter._close_shard
def killed_after_the_second(self):
    close(self)
    if len(self._journal.shards) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
store.VideoWriter._close_shard = killed_after_the_second
from tests.video.test_actions import configure
recorder.record(configure(episodes=9), Path({str(path)!r}), lambda frames: None)
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, check=False)
    assert killed.returncode == -signal.SIGKILL
    store, actions = VideoStore(path), ActionFile(actions_path(path))
    assert len(store) == 4
    assert all(actions.of(store.frames(index)) is not None for index in range(4))


def test_a_full_disk_leaves_the_actions_written_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.arrow"
    first, second = episode(0), episode(1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ActionWriter(path, 4) as writer:
        writer.append(*first, "a")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(DataError, match=r"a\.arrow.*No space left"):
                writer.append(*second, "b")
    assert len(ActionFile(path)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_recordings_keep_the_actions_of_their_last_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended: list[int] = []
    append = VideoWriter.append

    def interrupted(self: VideoWriter, frames: Frames, source: str) -> None:
        append(self, frames, source)
        appended.append(1)
        if len(appended) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(configure(episodes=9), tmp_path / "store", lambda frames: None)
    store, actions = VideoStore(tmp_path / "store"), ActionFile(actions_path(tmp_path / "store"))
    assert len(store) == len(actions) == 3
    assert all(actions.of(store.frames(index)) is not None for index in range(3))


def test_an_interrupt_waits_until_the_actions_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def interrupted(temporary: Path, target: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        replace(temporary, target)

    monkeypatch.setattr(os, "replace", interrupted)
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    with pytest.raises(KeyboardInterrupt), ActionWriter(tmp_path / "a.arrow", 3) as writer:
        writer.append(np.zeros((3, 2), np.float32), frames, "a")
    assert ActionFile(tmp_path / "a.arrow").of(frames) is not None
