from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelar_ray.errors import ConfigError, DataError, UsageError
from prelar_ray.sources.hdf5 import Hdf5
from prelar_ray.sources.source import Choice
from tests.sources.reading import POINTER, plain, read


def test_without_h5py_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.hdf5").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"pip install 'prelar-ray\[hdf5\]'"):
        Hdf5(tmp_path, Choice())


def test_folders_are_recognised_without_h5py(tmp_path: Path):
    assert not Hdf5.recognise(tmp_path)
    (tmp_path / "a.hdf5").touch()
    assert Hdf5.recognise(tmp_path)
    assert Hdf5.recognise(tmp_path / "a.hdf5")
    (tmp_path / "recordings").mkdir()  # an episode of DROID
    assert not Hdf5.recognise(tmp_path)


@pytest.fixture
def h5py() -> Any:
    return pytest.importorskip("h5py")


def demos(
    path: Path, levels: Mapping[int, Sequence[int]], cameras: Sequence[str] = ("agentview_image",), mask: bool = False
) -> Path:
    """A file of robomimic; camera c is c levels lighter, the action in row t of demo d is (d, t + 1)."""
    h5py = importlib.import_module("h5py")
    with h5py.File(path, "w") as file:
        for number, column in levels.items():
            group = file.create_group(f"data/demo_{number}")
            for brighter, camera in enumerate(cameras):
                group[f"obs/{camera}"] = plain(list(column), 84, 84) + np.uint8(brighter)
            group["obs/robot0_eef_pos"] = np.zeros((len(column), 3))
            group["obs/depth"] = np.zeros((len(column), 84, 84, 1), np.float32)
            group[f"next_obs/{cameras[0]}"] = plain(list(column), 84, 84)
            group["actions"] = np.array([[number, row + 1] for row in range(len(column))], np.float64)
        if mask:
            file["mask/train"] = np.array([b"demo_0"])
    return path


def test_demonstrations_are_read_in_the_order_of_their_numbers(tmp_path: Path, h5py: Any):
    found = read(Hdf5, demos(tmp_path / "lift.hdf5", {10: [100, 110], 2: [20, 21, 22], 0: [1]}))
    assert [episode.levels for episode in found] == [[1], [20, 21, 22], [100, 110]]
    assert [episode.name for episode in found] == ["lift"] * 3
    assert found[0].times == [None]


def test_an_action_leads_to_the_next_picture(tmp_path: Path, h5py: Any):
    (found,) = read(Hdf5, demos(tmp_path / "lift.hdf5", {3: [1, 2, 3]}), actions=True)
    assert found.actions is not None
    np.testing.assert_array_equal(found.actions, [[0, 0], [3, 1], [3, 2]])


def test_several_cameras_are_listed_and_one_or_all_can_be_chosen(tmp_path: Path, h5py: Any):
    path = demos(tmp_path / "a.hdf5", {0: [10], 1: [20]}, ("agentview_image", "robot0_eye_in_hand_image"))
    with pytest.raises(ConfigError, match=r"several cameras \(agentview_image, robot0_eye_in_hand_image\)"):
        Hdf5(path, Choice())
    assert [episode.levels for episode in read(Hdf5, path, camera="robot0_eye_in_hand_image")] == [[11], [21]]
    assert [episode.levels for episode in read(Hdf5, path, camera="all")] == [[10], [11], [20], [21]]


def test_a_folder_of_files_is_read_in_order_and_numbered_through(tmp_path: Path, h5py: Any):
    demos(tmp_path / "b_demo.hdf5", {0: [30]})
    demos(tmp_path / "a_demo.hdf5", {0: [10], 1: [20]})
    assert [episode.levels for episode in read(Hdf5, tmp_path)] == [[10], [20], [30]]
    chosen = read(Hdf5, tmp_path, episodes=((1, None),), limit=2)
    assert [(episode.name, episode.levels) for episode in chosen] == [("a", [20]), ("b", [30])]
    with pytest.raises(ConfigError, match="no episode is left"):
        Hdf5(tmp_path, Choice(episodes=((5, 6),)))


def test_libero_is_kept_upside_down_and_it_is_said(tmp_path: Path, h5py: Any):
    with h5py.File(tmp_path / "pick_demo.hdf5", "w") as file:
        pixels = plain([0], 64, 64)
        pixels[:, :32] = 200
        file["data/demo_0/obs/agentview_rgb"] = pixels
    (found,) = read(Hdf5, tmp_path)
    np.testing.assert_array_equal(found.frames, pixels)
    assert "--flip rows makes them upright" in Hdf5(tmp_path, Choice()).describe().notes[0]


def test_lists_of_demonstrations_are_said_not_to_be_used(tmp_path: Path, h5py: Any):
    path = demos(tmp_path / "a.hdf5", {0: [1], 1: [2]}, mask=True)
    assert Hdf5(path, Choice()).describe().notes == ("lists of demonstrations (train) are not used; all are read",)


def flat(path: Path, levels: Sequence[int], lengths: Sequence[int]) -> Path:
    """A file of stable-worldmodel."""
    h5py = importlib.import_module("h5py")
    with h5py.File(path, "w") as file:
        file["pixels"] = plain(list(levels))
        file["ep_len"] = np.asarray(lengths, np.int32)
        file["ep_offset"] = np.cumsum([0, *lengths[:-1]])
        file["action"] = np.zeros((len(levels), 2))
    return path


def test_episodes_one_after_another_are_cut_by_their_lengths(tmp_path: Path, h5py: Any):
    path = flat(tmp_path / "push.h5", [*range(40), 50, 51, 60], [40, 2, 1])
    assert [episode.levels for episode in read(Hdf5, path)] == [[*range(40)], [50, 51], [60]]
    assert Hdf5(path, Choice()).describe().frames == 43
    with pytest.raises(ConfigError, match="do not say what led to what"):
        Hdf5(path, Choice(actions=True))


def test_lengths_beyond_the_rows_are_an_error(tmp_path: Path, h5py: Any):
    with pytest.raises(DataError, match=r"push\.h5: /pixels: 3 rows, its ep_len says 4"):
        read(Hdf5, flat(tmp_path / "push.h5", [1, 2, 3], [2, 2]))


def test_actions_that_do_not_fit_are_named(tmp_path: Path, h5py: Any):
    path = demos(tmp_path / "a.hdf5", {0: [1, 2]})
    with h5py.File(path, "a") as file:
        del file["data/demo_0/actions"]
    with pytest.raises(DataError, match=r"a\.hdf5: data/demo_0/actions: not one for each of 2 pictures"):
        read(Hdf5, path, actions=True)


def test_a_demonstration_without_the_camera_is_named(tmp_path: Path, h5py: Any):
    path = demos(tmp_path / "a.hdf5", {0: [1], 1: [2]})
    with h5py.File(path, "a") as file:
        del file["data/demo_1/obs/agentview_image"]
    with pytest.raises(DataError, match=r"a\.hdf5: /data/demo_1/obs/agentview_image: no pictures"):
        read(Hdf5, path)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty"), (b"text", "not a readable HDF5 file"), (POINTER, "git lfs pull"), (None, "not a readable HDF5")],
)
def test_a_broken_file_is_named(tmp_path: Path, h5py: Any, content: bytes | None, says: str):
    path = demos(tmp_path / "a.hdf5", {0: [1, 2]})
    path.write_bytes(path.read_bytes()[:3000] if content is None else content)
    with pytest.raises(DataError, match=rf"a\.hdf5: .*{says}"):
        Hdf5(path, Choice())


def test_pictures_that_are_damaged_are_named_when_they_are_read(tmp_path: Path, h5py: Any):
    path = tmp_path / "a.hdf5"
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        array = file.create_dataset("data/demo_0/obs/image", data=noise, chunks=(1, 64, 64, 3), compression="gzip")
        place = array.id.get_chunk_info(5).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.hdf5: not a readable HDF5 file"):
        read(Hdf5, path)


def test_a_file_of_another_structure_says_what_was_expected(tmp_path: Path, h5py: Any):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(DataError, match=r"a\.h5: neither data/demo_<i> nor ep_len"):
        Hdf5(tmp_path, Choice())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data/demo_0/obs/state"] = np.zeros((4, 3))
    with pytest.raises(DataError, match=r"a\.h5: /data/demo_0/obs: no pictures .* among state \(4, 3\)"):
        Hdf5(tmp_path, Choice())


def test_an_empty_folder_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"no \.hdf5 or \.h5 files"):
        Hdf5(tmp_path, Choice())


def test_the_description_adds_up(tmp_path: Path, h5py: Any):
    path = demos(tmp_path / "a.hdf5", {0: [1, 2], 1: [3, 4]})
    found = Hdf5(path, Choice()).describe()
    assert (found.format, found.items, found.episodes, found.frames) == ("HDF5", 2, 2, 4)
    assert (found.cameras, found.sizes, found.notes) == (("agentview_image",), ("84 x 84",), ())
    assert found.bytes == path.stat().st_size


def test_choices_that_it_does_not_have_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="--end: .* read as hdf5"):
        Hdf5(tmp_path, Choice(end=1.0))
