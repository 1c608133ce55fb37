from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.npz import Npz
from prelar_ray.sources.source import Choice
from tests.sources.reading import POINTER, plain, read

NONE = "0" * 22


def save(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def dreamer(folder: Path, number: int, levels: list[int], **more: Any) -> Path:
    """An episode as DreamerV2 and APV write it; its action in row t led to picture t and is t + 1."""
    rows = len(levels)
    action = np.arange(1, rows + 1, dtype=np.float32)[:, None]
    arrays = {"image": plain(levels), "action": action, "reward": np.zeros(rows, np.float32), **more}
    return save(folder / f"20230101T00000{number}-{'ab' * 16}-{rows - 1}.npz", **arrays)


def chunk(
    folder: Path, number: int, uuid: str, successor: str, levels: list[int], first: list[int], length: int | None = None
) -> Path:
    """A chunk as DreamerV3 writes it; its action in row t is the level of picture t."""
    rows = len(levels)
    return save(
        folder / f"20230101T00000{number}F123456-{uuid}-{successor}-{rows if length is None else length}.npz",
        image=plain(levels),
        is_first=np.isin(np.arange(rows), first),
        action=np.asarray(levels, np.float32)[:, None],
    )


def test_a_folder_is_read_one_episode_a_file_in_order(tmp_path: Path):
    dreamer(tmp_path, 2, [30, 40, 50])
    dreamer(tmp_path, 1, [10, 20])
    found = read(Npz, tmp_path)
    assert [episode.levels for episode in found] == [[10, 20], [30, 40, 50]]
    assert found[0].times == [None, None]
    assert found[0].name == tmp_path.name
    assert found[0].actions is None


def test_pixels_of_the_right_size_are_kept_as_they_are(tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    (episode,) = read(Npz, save(tmp_path / "train_eps_00000000.npz", image=frames))
    np.testing.assert_array_equal(episode.frames, frames)


def test_files_are_sorted_as_people_count(tmp_path: Path):
    for number in (10, 9):
        save(tmp_path / f"train_eps_{number}.npz", image=plain([number]))
    assert [episode.levels for episode in read(Npz, tmp_path)] == [[9], [10]]


def test_an_action_of_dreamer_v2_already_led_to_its_picture(tmp_path: Path):
    dreamer(tmp_path, 1, [10, 20, 30])
    (episode,) = read(Npz, tmp_path, actions=True)
    assert episode.actions is not None
    np.testing.assert_array_equal(episode.actions, [[0], [2], [3]])
    assert episode.actions.dtype == np.float32


def test_actions_are_refused_where_nothing_says_what_they_led_to(tmp_path: Path):
    save(tmp_path / "train_eps_0.npz", image=plain([1]), action=np.zeros((1, 2)))
    with pytest.raises(ConfigError, match=r"--actions: .*train_eps_0\.npz"):
        Npz(tmp_path, Choice(actions=True))


def test_another_number_of_actions_than_pictures_is_an_error(tmp_path: Path):
    path = dreamer(tmp_path, 1, [10, 20], action=np.zeros((3, 1)))
    with pytest.raises(DataError, match=f"{path.name}: 3 rows of action for 2 pictures"):
        read(Npz, tmp_path, actions=True)


def test_chunks_are_followed_and_cut_where_an_episode_starts(tmp_path: Path):
    chunk(tmp_path, 3, "c", NONE, [5, 6, 7], first=[1])
    chunk(tmp_path, 1, "a", "c", [1, 2, 3, 4], first=[0, 2])
    chunk(tmp_path, 2, "b", NONE, [91, 92], first=[])  # another stream, which starts within an episode
    source = Npz(tmp_path, Choice())
    assert [[file.name[23] for file in item.files] for item in source.items()] == [["a", "c"], ["b"]]
    found = read(Npz, tmp_path)
    assert [episode.levels for episode in found] == [[1, 2], [3, 4, 5], [6, 7], [91, 92]]


def test_an_action_of_dreamer_v3_leads_to_the_next_picture(tmp_path: Path):
    chunk(tmp_path, 1, "a", "b", [1, 2, 3], first=[0, 1])
    chunk(tmp_path, 2, "b", NONE, [4, 5], first=[])
    actions = [episode.actions for episode in read(Npz, tmp_path, actions=True)]
    assert [action.ravel().tolist() for action in actions if action is not None] == [[0], [0, 2, 3, 4]]


def test_a_chunk_that_was_saved_again_as_it_grew_counts_once(tmp_path: Path):
    chunk(tmp_path, 1, "a", NONE, [1, 2], first=[0])
    chunk(tmp_path, 1, "a", "b", [1, 2, 3], first=[0])
    chunk(tmp_path, 2, "b", NONE, [4], first=[])
    assert [episode.levels for episode in read(Npz, tmp_path)] == [[1, 2, 3, 4]]


def test_rows_of_a_chunk_beyond_the_length_in_its_name_do_not_count(tmp_path: Path):
    chunk(tmp_path, 1, "a", "b", [1, 2, 0, 0], first=[0], length=2)
    chunk(tmp_path, 2, "b", NONE, [3, 4], first=[1])
    assert [episode.levels for episode in read(Npz, tmp_path)] == [[1, 2, 3], [4]]


def test_a_chunk_with_fewer_rows_than_its_name_says_is_damaged(tmp_path: Path):
    path = chunk(tmp_path, 1, "a", NONE, [1, 2], first=[0], length=3)
    with pytest.raises(DataError, match=f"{path.name}: is_first has 2 rows, its name says 3"):
        read(Npz, tmp_path)


def test_a_missing_successor_is_noted_with_the_last_episode(tmp_path: Path):
    path = chunk(tmp_path, 1, "a", "gone", [1, 2], first=[0, 1])
    assert [episode.notes for episode in read(Npz, tmp_path)] == [
        [],
        [f"{path.name}: the chunk that follows it is not there"],
    ]


def test_chunks_in_a_circle_are_an_error(tmp_path: Path):
    chunk(tmp_path, 1, "a", "b", [1], first=[0])
    chunk(tmp_path, 2, "b", "a", [2], first=[])
    with pytest.raises(DataError, match="circle"):
        Npz(tmp_path, Choice())


def test_episodes_are_chosen_by_number(tmp_path: Path):
    for number in range(4):
        dreamer(tmp_path, number, [number])
    assert [episode.levels for episode in read(Npz, tmp_path, episodes=((1, None),), limit=2)] == [[1], [2]]
    with pytest.raises(ConfigError, match="no episode is left"):
        Npz(tmp_path, Choice(episodes=((9, None),)))


def test_episodes_of_chunks_are_numbered_through_all_streams(tmp_path: Path):
    chunk(tmp_path, 1, "a", NONE, [1, 2, 3], first=[0, 1, 2])
    chunk(tmp_path, 2, "b", NONE, [4, 5], first=[0, 1])
    assert [episode.levels for episode in read(Npz, tmp_path, episodes=((1, 2), (3, 5)))] == [[2], [4], [5]]


@pytest.mark.parametrize("key", ["image", "rgb_static", "front_rgb", "agentview_rgb", "aux1_image"])
def test_the_only_pictures_are_found_under_any_key(tmp_path: Path, key: str):
    save(tmp_path / "train_eps_0.npz", **{key: plain([7]), "action": np.zeros((1, 4)), "maps": np.zeros((1, 8, 8))})
    assert read(Npz, tmp_path)[0].levels == [7]


def test_several_cameras_are_listed_and_one_or_all_can_be_chosen(tmp_path: Path):
    save(tmp_path / "a.npz", left=plain([1]), right=plain([2]))
    with pytest.raises(ConfigError, match=r"several cameras \(left, right\); choose one with --camera"):
        Npz(tmp_path, Choice())
    with pytest.raises(ConfigError, match="--camera top: .* has left, right"):
        Npz(tmp_path, Choice(camera="top"))
    assert [episode.levels for episode in read(Npz, tmp_path, camera="right")] == [[2]]
    assert [episode.levels for episode in read(Npz, tmp_path, camera="all")] == [[1], [2]]


def test_a_later_file_without_the_camera_is_named(tmp_path: Path):
    save(tmp_path / "a.npz", image=plain([1]))
    save(tmp_path / "b.npz", rgb=plain([1]))
    with pytest.raises(DataError, match=r"b\.npz: no image among rgb"):
        read(Npz, tmp_path)


@pytest.mark.parametrize(
    "array",
    [
        plain([0, 100, 200]).astype(np.int64),
        plain([0, 100, 200]).astype(np.float32),
        plain([0, 100, 200]).astype(np.float64) / 255,
        plain([0, 100, 200]).transpose(0, 3, 1, 2),
        plain([0, 100, 200], channels=1),
        plain([0, 100, 200], channels=1).transpose(0, 3, 1, 2).astype(np.uint16),
    ],
    ids=["int64", "float to 255", "float to 1", "channels first", "gray", "gray first uint16"],
)
def test_pictures_of_other_types_and_orders_become_bytes(tmp_path: Path, array: np.ndarray):
    (episode,) = read(Npz, save(tmp_path / "a.npz", image=array))
    assert episode.levels == [0, 100, 200]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full((1, 64, 64, 3), 256), "numbers from 256 to 256, expected 0 to 255"),
        (np.full((1, 64, 64, 3), -1), "numbers from -1"),
        (np.full((1, 64, 64, 3), np.nan), "numbers from nan"),
        (np.full((1, 64, 64, 3), -0.5), "numbers from -0.5"),
        (np.full((1, 64, 64, 3), 100.5), "fractions up to 100.5"),
        (np.ones((1, 64, 64, 3)), "only 0 and 1"),
        (np.zeros((0, 64, 64, 3), np.uint8), "expected rows"),
    ],
)
def test_numbers_that_are_no_certain_colours_are_refused(tmp_path: Path, array: np.ndarray, says: str):
    with pytest.raises(DataError, match=rf"a\.npz: image.*{says}"):
        read(Npz, save(tmp_path / "a.npz", image=array))


def test_stacked_pictures_are_refused_by_name(tmp_path: Path):
    path = save(tmp_path / "demo.npz", observation=np.zeros((5, 9, 64, 64), np.uint8))
    with pytest.raises(DataError, match=r"demo\.npz: observation .* 9 channels, three pictures on top of each other"):
        Npz(path, Choice())


def test_a_file_without_pictures_lists_what_it_has(tmp_path: Path):
    path = save(tmp_path / "a.npz", state=np.zeros((5, 4), np.float32))
    with pytest.raises(DataError, match=r"no pictures .* among state \(5, 4\) float32"):
        Npz(path, Choice())


class Malicious:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was opened",))


def test_pickles_are_never_opened(tmp_path: Path):
    objects = np.array([Malicious()], dtype=object)
    path = save(tmp_path / "a.npz", image=objects)
    with pytest.raises(DataError, match=r"a\.npz: image is a pickle"):
        Npz(path, Choice())
    good = tmp_path / "folder"
    good.mkdir()
    save(good / "a.npz", image=plain([1]))
    save(good / "b.npz", image=objects)
    with pytest.raises(DataError, match=r"b\.npz: image is a pickle"):
        read(Npz, good)
    whole = tmp_path / "whole.npz"
    whole.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(DataError, match=r"whole\.npz: a pickle"):
        Npz(whole, Choice())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"text", "not a readable npz file"),
        (POINTER, "git lfs pull"),
        (None, "not a readable npz file"),  # cut short
    ],
)
def test_a_broken_file_is_named_whether_first_or_later(tmp_path: Path, content: bytes | None, says: str):
    save(tmp_path / "a.npz", image=plain([1, 2]))
    broken = tmp_path / "b.npz"
    whole = (tmp_path / "a.npz").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(DataError, match=rf"b\.npz: .*{says}"):
        Npz(broken, Choice())
    with pytest.raises(DataError, match=rf"b\.npz: .*{says}"):
        read(Npz, tmp_path)


def test_damaged_compressed_content_is_a_named_error(tmp_path: Path):
    path = save(tmp_path / "a.npz", image=np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: not a readable npz file"):
        read(Npz, path)


def test_an_empty_folder_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"no \.npz files"):
        Npz(tmp_path, Choice())


@pytest.mark.parametrize(
    ("choice", "option"),
    [
        ({"list": Path("x")}, "--list"),
        ({"labels": ("a",)}, "--label"),
        ({"start": 1.0}, "--start"),
        ({"end": 1.0}, "--end"),
    ],
)
def test_choices_that_npz_does_not_have_are_refused(tmp_path: Path, choice: dict[str, Any], option: str):
    save(tmp_path / "a.npz", image=plain([1]))
    with pytest.raises(ConfigError, match=f"{option}: .* read as npz"):
        Npz(tmp_path, Choice(**choice))


def test_the_description_says_what_names_and_the_first_file_tell(tmp_path: Path):
    dreamer(tmp_path, 1, [1, 2, 3])
    dreamer(tmp_path, 2, [1, 2])
    found = Npz(tmp_path, Choice()).describe()
    assert (found.format, found.items, found.episodes, found.frames) == ("npz", 2, 2, 5)
    assert (found.cameras, found.sizes, found.rates) == (("image",), ("64 x 64",), ())
    assert found.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_the_description_of_chunks_does_not_guess_episodes(tmp_path: Path):
    chunk(tmp_path, 1, "a", NONE, [1, 2, 3], first=[0])
    found = Npz(tmp_path, Choice()).describe()
    assert (found.format, found.episodes, found.frames) == ("npz (chunks of DreamerV3)", None, 3)


def test_a_name_replaces_that_of_the_folder(tmp_path: Path):
    dreamer(tmp_path, 1, [1])
    assert read(Npz, tmp_path, name="door")[0].name == "door"


def test_folders_are_recognised_by_most_of_their_files(tmp_path: Path):
    assert not Npz.recognise(tmp_path)
    assert not Npz.recognise(tmp_path / "missing")
    save(tmp_path / "a.npz", image=plain([1]))
    (tmp_path / ".DS_Store").touch()
    assert Npz.recognise(tmp_path)
    assert Npz.recognise(tmp_path / "a.npz")
    for number in range(2000):
        (tmp_path / f"{number}.jpg").touch()
    assert not Npz.recognise(tmp_path)
