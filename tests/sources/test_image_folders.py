from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.geometry import Geometry
from prelar_ray.sources.image_folders import ImageFolders
from prelar_ray.sources.selection import Selection
from prelar_ray.sources.source import Choice
from tests.sources.clips import told

Read = list[tuple[str, list[int], list[str]]]


def fill(folder: Path, names: Sequence[str], size: tuple[int, int] = (64, 64), first: int = 1) -> Path:
    """Write pictures whose shade says which of ``names`` they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for shade, name in enumerate(names, first):
        Image.fromarray(np.full((*size, 3), 8 * shade, np.uint8)).save(folder / name)
    return folder


def choose(**choices: Any) -> Choice:
    return Choice.model_validate(choices)


def read(source: ImageFolders) -> Read:
    """Return names, which shades, and notes of all episodes, as a process that converts sees them."""
    episodes: Read = []
    for item in pickle.loads(pickle.dumps(source)).items():
        for episode in source.read(item):
            pictures = [told(picture.square(Geometry())) for _, picture in episode.pictures]
            episodes.append((episode.name, pictures, episode.notes))
    return episodes


def error(source: ImageFolders) -> str:
    with pytest.raises(DataError) as caught:
        read(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def numbered(*numbers: int, pattern: str = "{:06d}.jpg") -> list[str]:
    return [pattern.format(number) for number in numbers]


def test_each_folder_is_a_video_named_after_the_folder_it_lies_in(tmp_path: Path) -> None:
    root = tmp_path / "frames"
    fill(root / "push" / "17", numbered(1, 2, 3))
    fill(root / "push" / "4", numbered(0, 1))
    fill(root / "9", numbered(1, 2, 3, 4))
    source = ImageFolders(root, Choice())
    assert [item.key for item in source.items()] == ["9", "push/17", "push/4"]
    assert source.items()[0].files == (root / "9",)
    assert read(source) == [("frames", [1, 2, 3, 4], []), ("push", [1, 2, 3], []), ("push", [1, 2], [])]
    assert [name for name, _, _ in read(ImageFolders(root, choose(name="mine", limit=2)))] == ["mine", "mine"]


@pytest.mark.parametrize(
    "names",
    [
        ["9.png", "10.png", "11.png"],
        ["abcd0009.jpg", "abcd0010.jpg", "abcd0011.jpg"],
        ["cam2_frame_8.webp", "cam2_frame_9.JPG", "cam2_frame_10.bmp"],
        ["v1-7 (left).jpeg", "v1-8 (left).jpeg", "v1-9 (left).jpeg"],
    ],
)
def test_the_last_number_of_the_name_orders_pictures(tmp_path: Path, names: list[str]) -> None:
    assert read(ImageFolders(fill(tmp_path / "v", names), Choice())) == [("v", [1, 2, 3], [])]


def test_gaps_and_pictures_without_a_number_are_noted(tmp_path: Path) -> None:
    fill(tmp_path / "v", [*numbered(1, 2, 5, 6, 9), "cover.jpg"])
    ((_, pictures, notes),) = read(ImageFolders(tmp_path, Choice()))
    assert pictures == [1, 2, 3, 4, 5]
    assert notes == ["1 picture without a number left out (cover.jpg)", "2 gaps in the numbers, the first after 2"]


def test_every_fifth_number_is_no_gap(tmp_path: Path) -> None:
    assert read(ImageFolders(fill(tmp_path / "v", numbered(1, 6, 11, 16)), Choice()))[0][2] == []


def test_titles_in_one_folder_are_videos_and_gaps_begin_new_ones(tmp_path: Path) -> None:
    fill(tmp_path, numbered(1, 6, 11, 26, 31, pattern="S1_Walking.55_{:06d}.jpg"))
    fill(tmp_path, numbered(1, 6, pattern="S1_Eating 1.54_{:06d}.jpg"), first=10)
    source = ImageFolders(tmp_path, Choice())
    assert read(source) == [
        ("S1_Eating 1.54", [10, 11], []),
        ("S1_Walking.55", [1, 2, 3], []),
        ("S1_Walking.55", [4, 5], []),
    ]
    assert [item.key for item in source.items()] == [
        "S1_Eating 1.54_000001",
        "S1_Walking.55_000001",
        "S1_Walking.55_000026",
    ]


def test_text_that_differs_from_picture_to_picture_is_no_title(tmp_path: Path) -> None:
    fill(tmp_path / "v", ["a_1.jpg", "b_2.jpg", "c_3.jpg"])
    assert read(ImageFolders(tmp_path / "v", Choice())) == [("v", [1, 2, 3], [])]


def test_two_pictures_of_one_number_are_refused_with_both_names(tmp_path: Path) -> None:
    fill(tmp_path / "v", ["rgb_1.png", "depth_1.png", "rgb_2.png", "depth_2.png"])
    assert "depth_1.png and rgb_1.png have the same number" in error(ImageFolders(tmp_path, Choice()))


def test_pictures_of_different_sizes_are_refused_with_both(tmp_path: Path) -> None:
    fill(tmp_path / "v", numbered(1, 2))
    fill(tmp_path / "v", numbered(3), size=(48, 64))
    message = error(ImageFolders(tmp_path, Choice()))
    assert "000003.jpg: 64 x 48" in message
    assert "000001.jpg of the same video has 64 x 64" in message


def test_pictures_of_sixteen_bits_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "v", numbered(1, 2))
    Image.fromarray(np.full((64, 64), 4000, np.uint16)).save(tmp_path / "v" / "000003.png")
    assert "depth map" in error(ImageFolders(tmp_path, Choice()))


def test_a_damaged_picture_is_named_and_only_if_it_is_kept(tmp_path: Path) -> None:
    path = fill(tmp_path / "v", numbered(1, 2, 3)) / "000002.jpg"
    path.write_bytes(path.read_bytes()[:300])
    source = ImageFolders(tmp_path, Choice())
    assert f"{path}: " in error(source)
    (episode,) = source.read(source.items()[0])
    assert [told(kept.square(Geometry())) for kept in Selection(every=2).select(episode.pictures)] == [1, 3]


def test_pictures_have_no_times(tmp_path: Path) -> None:
    source = ImageFolders(fill(tmp_path / "v", numbered(1, 2)), Choice())
    (episode,) = source.read(source.items()[0])
    with pytest.raises(ConfigError, match="--every"):
        [*Selection(fps=5).select(episode.pictures)]


def test_a_list_gives_videos_classes_and_counts(tmp_path: Path) -> None:
    for number in (3, 17, 20):
        fill(tmp_path / "frames" / str(number), numbered(1, 2))
    path = tmp_path / "train.txt"
    path.write_text("20 2 1\n17 3 0\n5 2 1\n")
    path.with_name("category.txt").write_text("Holding\nPushing\n")
    source = ImageFolders(tmp_path / "frames", choose(list=path))
    assert [item.key for item in source.items()] == ["20", "17", "5"]
    assert source.describe().frames == 7
    assert read(ImageFolders(tmp_path / "frames", choose(list=path, limit=2))) == [
        ("Pushing", [1, 2], []),
        ("Holding", [1, 2], ["2 pictures, the list says 3"]),
    ]
    assert f"{tmp_path / 'frames' / '5'}: no such folder" in error(source)
    assert [item.key for item in ImageFolders(tmp_path / "frames", choose(list=path, labels=("0",))).items()] == ["17"]


def test_listing_opens_no_picture_and_a_list_looks_into_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        fill(tmp_path / "frames" / str(number), numbered(1, 2))
    path = tmp_path / "train.txt"
    path.write_text("2 2 0\n")
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a picture was opened"))
    assert len(ImageFolders(tmp_path / "frames", Choice()).items()) == 5
    monkeypatch.setattr(os, "scandir", lambda *_: pytest.fail("a folder was scanned"))
    monkeypatch.setattr(os, "listdir", lambda *_: pytest.fail("a folder was listed"))
    assert [item.key for item in ImageFolders(tmp_path / "frames", choose(list=path)).items()] == ["2"]


def test_a_description_judges_all_folders_by_some(tmp_path: Path) -> None:
    for number in range(40):
        fill(tmp_path / str(number), numbered(1, 2, 3), size=(48, 64))
    found = ImageFolders(tmp_path, Choice()).describe()
    assert (found.items, found.episodes, found.frames, found.sizes, found.rates) == (40, 40, 120, ("64 x 48",), ())
    assert found.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.jpg"))


def test_folders_are_recognised_by_numbered_pictures_without_videos(tmp_path: Path) -> None:
    fill(tmp_path / "good" / "1", numbered(1, 2))
    assert ImageFolders.recognise(tmp_path / "good")
    fill(tmp_path / "thumbnails", numbered(1, 2))
    (tmp_path / "thumbnails" / "1.mp4").touch()
    fill(tmp_path / "covers", ["a.jpg", "b.jpg"])
    for other in ("thumbnails", "covers", "good/1/000001.jpg"):
        assert not ImageFolders.recognise(tmp_path / other)
    with pytest.raises(DataError, match="no pictures with numbers"):
        ImageFolders(tmp_path / "covers", Choice())


@pytest.mark.parametrize(
    ("choices", "option"),
    [({"start": 1.0}, "--start"), ({"end": 2}, "--end"), ({"camera": "a"}, "--camera"), ({"labels": ("1",)}, "--list")],
)
def test_choices_that_pictures_do_not_have_are_refused(tmp_path: Path, choices: dict[str, Any], option: str) -> None:
    fill(tmp_path / "v", numbered(1, 2))
    with pytest.raises(ConfigError, match=option):
        ImageFolders(tmp_path, choose(**choices))


def test_a_list_with_times_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "v", numbered(1, 2))
    (tmp_path / "cuts.csv").write_text("v,0,1\n")
    with pytest.raises(ConfigError, match="times"):
        ImageFolders(tmp_path, choose(list=tmp_path / "cuts.csv"))
