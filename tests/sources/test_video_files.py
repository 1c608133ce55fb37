from __future__ import annotations

import os
import pickle
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.decoding import VideoFile
from prelar_ray.sources.geometry import Geometry
from prelar_ray.sources.scaling import VideoPicture
from prelar_ray.sources.source import Choice
from prelar_ray.sources.video_files import VideoFiles
from tests.sources.clips import shades, told, write

Read = list[tuple[str, list[int], list[str]]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds, ten shades a second; read only."""
    return write(tmp_path_factory.mktemp("clip") / "clip.mp4", shades(30))


@pytest.fixture
def tree(tmp_path: Path, clip: Path) -> Path:
    """Four videos in three folders, and what is no video."""
    root = tmp_path / "videos"
    for name in ("b/2.MP4", "b/10.mp4", "a/deep/x.webm", "top.mkv", "._top.mkv", ".cache/h.mp4", "b/notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, root / name)
    return root


def choose(**choices: Any) -> Choice:
    return Choice.model_validate(choices)


def read(source: VideoFiles) -> Read:
    """Return names, which shades, and notes of all episodes, as a process that converts sees them."""
    episodes: Read = []
    for item in pickle.loads(pickle.dumps(source)).items():
        for episode in source.read(item):
            pictures = [told(picture.square(Geometry())) for _, picture in episode.pictures]
            episodes.append((episode.name, pictures, episode.notes))
    return episodes


def keys(source: VideoFiles) -> list[str]:
    return [item.key for item in source.items()]


# Trees


def test_what_is_not_read_beside_videos_is_said(tree: Path) -> None:
    (tree / "frames").mkdir()
    for number in range(3):
        (tree / "frames" / f"{number}.jpg").touch()
    assert VideoFiles(tree, Choice()).describe().notes == (
        "not read, for they are no videos: 3 .jpg, 1 .txt; unpack or name them if they are wanted too",
    )


def test_a_tree_is_read_by_path_and_named_after_its_folders(tree: Path) -> None:
    source = VideoFiles(tree, Choice())
    assert keys(source) == ["a/deep/x.webm", "b/10.mp4", "b/2.MP4", "top.mkv"]
    assert [item.files for item in source.items()] == [(tree / key,) for key in keys(source)]
    episodes = read(source)
    assert [name for name, _, _ in episodes] == ["a/deep", "b", "b", "videos"]
    assert all(pictures == [*range(30)] and notes == [] for _, pictures, notes in episodes)


def test_a_single_file_is_named_after_itself(clip: Path) -> None:
    assert [name for name, _, _ in read(VideoFiles(clip, Choice()))] == ["clip"]
    assert [name for name, _, _ in read(VideoFiles(clip, choose(name="mine")))] == ["mine"]


def test_videos_are_recognised_by_their_names_at_any_depth(tree: Path, tmp_path: Path) -> None:
    assert VideoFiles.recognise(tree)
    assert VideoFiles.recognise(tree / "b" / "2.MP4")
    assert not VideoFiles.recognise(tree / "b" / "notes.txt")
    (tmp_path / "other").mkdir()
    shutil.copytree(tree / ".cache", tmp_path / "other" / ".cache")
    assert not VideoFiles.recognise(tmp_path / "other")
    with pytest.raises(DataError, match="no video files"):
        VideoFiles(tmp_path / "other", Choice())


def test_links_are_followed_but_not_in_circles(tree: Path, tmp_path: Path, clip: Path) -> None:
    (tree / "b" / "linked.mp4").symlink_to(clip)
    (tree / "b" / "gone.mp4").symlink_to(tmp_path / "nothing")
    (tree / "elsewhere").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(clip, tmp_path / "elsewhere" / "e.mp4")
    (tmp_path / "elsewhere" / "back").symlink_to(tree)
    source = VideoFiles(tree, Choice())
    assert {"b/linked.mp4", "b/gone.mp4", "elsewhere/e.mp4"} <= {*keys(source)}
    assert len(keys(source)) == 7
    missing = next(item for item in source.items() if item.key == "b/gone.mp4")
    with pytest.raises(DataError, match=r"gone\.mp4: .*No such file"):
        next(source.read(missing))


def test_a_description_judges_all_files_by_some(tree: Path) -> None:
    (tree / "a" / "bad.mp4").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    found = VideoFiles(tree, Choice()).describe()
    assert (found.items, found.episodes, found.frames) == (5, 5, 150)
    assert found.bytes == sum((tree / item.key).stat().st_size for item in VideoFiles(tree, Choice()).items())
    assert (found.sizes, found.rates) == (("96 x 64",), ("10",))
    assert len(found.notes) == 2
    assert "git lfs pull" in found.notes[0]
    assert VideoFiles(tree, choose(start=1, end=2)).describe().frames == 50


def test_a_description_opens_few_of_many_files(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(60):
        os.link(clip, tmp_path / f"{number}.mp4")
    opened: list[Any] = []
    original = av.open
    monkeypatch.setattr(av, "open", lambda file, *rest, **more: opened.append(file) or original(file, *rest, **more))
    assert VideoFiles(tmp_path, Choice()).describe().frames == 60 * 30
    assert len({*opened}) == 20


def test_the_first_episodes_and_a_part_of_each(tree: Path) -> None:
    source = VideoFiles(tree, choose(limit=2, start=0.5, end=0.8))
    assert [(name, pictures) for name, pictures, _ in read(source)] == [("a/deep", [5, 6, 7]), ("b", [5, 6, 7])]


def test_a_file_shorter_than_the_start_gives_nothing_and_says_so(clip: Path) -> None:
    assert read(VideoFiles(clip, choose(start=60))) == [("clip", [], ["ends at 2.90 s, before 60 s"])]
    assert read(VideoFiles(clip, choose(end=60)))[0][2] == []


@pytest.mark.parametrize(
    ("choices", "option"),
    [
        ({"camera": "front"}, "--camera"),
        ({"episodes": ((0, 3),)}, "--episodes"),
        ({"actions": True}, "--actions"),
        ({"labels": ("1",)}, "--list"),
        ({"start": 5, "end": 5}, "--end"),
    ],
)
def test_choices_that_videos_do_not_have_are_refused(clip: Path, choices: dict[str, Any], option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        VideoFiles(clip, choose(**choices))


# Lists


def listing(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(text)
    return path


def test_paths_of_a_list_are_read_in_its_order_and_named_by_label(tree: Path, tmp_path: Path) -> None:
    path = listing(tmp_path, f"top.mkv jump\nb/2.MP4 run\n{tree}/b/10.mp4 jump\n")
    source = VideoFiles(tree, choose(list=path))
    assert keys(source) == ["top.mkv", "b/2.MP4", "b/10.mp4"]
    assert [name for name, _, _ in read(source)] == ["jump", "run", "jump"]
    assert keys(VideoFiles(tree, choose(list=path, labels=("jump",), limit=1))) == ["top.mkv"]


def test_ids_of_a_list_find_their_files(tree: Path, tmp_path: Path) -> None:
    source = VideoFiles(tree / "b", choose(list=listing(tmp_path, "10 30 0\n2 30 1\n7 30 1\n")))
    assert keys(source) == ["10.mp4", "2.MP4", "7"]
    with pytest.raises(DataError, match=r"b/7: .*No such file"):
        next(source.read(source.items()[2]))


def test_a_file_that_is_listed_twice_is_refused_with_both_lines(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list\.txt:3: b/2\.MP4 again, as in line 1"):
        VideoFiles(tree, choose(list=listing(tmp_path, "b/2.MP4 1\ntop.mkv 1\nb/2.MP4 2\n")))


def test_parts_of_a_file_are_episodes_of_one_reading(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    original = av.open
    monkeypatch.setattr(av, "open", lambda file, *rest, **more: opened.append(file) or original(file, *rest, **more))
    path = listing(tmp_path, "b/2.MP4,2,2.3,late\ntop.mkv,0,0.2,\nb/2.MP4,0.5,0:00:00.8,early\n")
    source = VideoFiles(tree, choose(list=path))
    assert keys(source) == ["b/2.MP4", "top.mkv"]
    assert [(name, pictures) for name, pictures, _ in read(source)] == [
        ("early", [5, 6, 7]),
        ("late", [20, 21, 22]),
        ("videos", [0, 1]),
    ]
    assert len(opened) == 2
    assert source.describe().frames == 3 + 3 + 2


def test_times_of_a_part_begin_with_its_first_picture(clip: Path, tmp_path: Path) -> None:
    source = VideoFiles(clip, choose(list=listing(tmp_path, "clip.mp4,1,1.3\n")))
    times = [[time for time, _ in episode.pictures] for episode in source.read(source.items()[0])]
    assert times == [pytest.approx([0, 0.1, 0.2])]


def test_parts_may_overlap_touch_and_lie_within_each_other(clip: Path, tmp_path: Path) -> None:
    parts = [(0.0, 1.0), (0.0, 3.0), (0.5, 0.7), (0.6, 2.0), (1.0, 2.0), (2.5, None)]
    lines = "".join(f"clip.mp4,{start},{'' if end is None else end},{start}\n" for start, end in parts)
    source = VideoFiles(clip, choose(list=listing(tmp_path, lines)))
    expected = [[*range(round(10 * start), 30 if end is None else round(10 * end))] for start, end in parts]
    assert [pictures for _, pictures, _ in read(source)] == expected
    assert [name for name, _, _ in read(source)] == [str(start) for start, _ in parts]


def test_frames_of_several_parts_are_held_as_small_pictures(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[VideoPicture] = weakref.WeakSet()
    monkeypatch.setattr(VideoFile, "pictures", followed(VideoFile.pictures, alive))
    source = VideoFiles(clip, choose(list=listing(tmp_path, "clip.mp4,0,3,a\nclip.mp4,0,3,b\n")))
    most = 0
    for episode in source.read(source.items()[0]):
        for number, (_, picture) in enumerate(episode.pictures):
            most = max(most, len(alive))
            if number % 5 == 0:
                assert told(picture.square(Geometry())) == number
    assert most <= 3


def followed(pictures: Any, alive: weakref.WeakSet[VideoPicture]) -> Any:
    """Note which pictures are alive."""

    def noted(video: VideoFile) -> Iterator[tuple[float, VideoPicture]]:
        for time, picture in pictures(video):
            alive.add(picture)
            yield time, picture

    return noted


def test_a_part_beyond_the_end_is_an_error_and_one_that_reaches_over_it_a_note(clip: Path, tmp_path: Path) -> None:
    path = listing(tmp_path, "clip.mp4,2.5,9,over\nclip.mp4,60,70,beyond\n")
    source = VideoFiles(clip, choose(list=path))
    episodes = source.read(source.items()[0])
    over = next(episodes)
    assert len([*over.pictures]) == 5
    assert over.notes == ["ends at 2.90 s, before the end of the cut at 9 s"]
    beyond = next(episodes)
    with pytest.raises(DataError, match=r"clip\.mp4: ends at 2\.90 s, before the cut that starts at 60 s"):
        next(beyond.pictures)


def test_a_list_of_times_leaves_none_to_choose(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--start, --end"):
        VideoFiles(clip, choose(list=listing(tmp_path, "clip.mp4,1,2\n"), end=3))


def test_a_list_of_other_files_is_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"names no video of .*clip\.mp4"):
        VideoFiles(clip, choose(list=listing(tmp_path, "other.mp4 1\n")))
