"""A store knows the size of its frames; stores of different sizes are never mixed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prelar_ray.config import VideoConfig
from prelar_ray.errors import DataError, UsageError
from prelar_ray.types import Frames
from prelar_ray.video.clips import ClipSampler
from prelar_ray.video.film import write_film
from prelar_ray.video.merge import merge, share_of, split
from prelar_ray.video.mixture import VideoMixture
from prelar_ray.video.sheet import write_sheet
from prelar_ray.video.store import VideoStore, VideoWriter
from tests.video.stores import assert_holds


def episodes(size: int, *lengths: int) -> list[Frames]:
    rng = np.random.default_rng(size)
    return [rng.integers(0, 256, (length, size, size, 3), dtype=np.uint8) for length in lengths]


def write(path: Path, size: int, *lengths: int) -> list[Frames]:
    found = episodes(size, *lengths)
    with VideoWriter(path, {"camera": "corner"}, 6, image_size=size) as writer:
        for frames in found:
            writer.append(frames, "task")
    return found


def nothing(count: int) -> None:
    """Progress that nobody looks at."""


@pytest.mark.parametrize("size", [32, 64, 128])
def test_frames_come_back_at_their_size(tmp_path: Path, size: int) -> None:
    found = write(tmp_path / "videos", size, 4, 5, 2)
    assert json.loads((tmp_path / "videos" / "manifest.json").read_text())["image_size"] == size
    store = VideoStore(tmp_path / "videos", verify=True)
    assert store.image_size == size
    assert_holds(store, found)
    assert store.read(0, 0, 0).shape == (0, size, size, 3)
    for stride in (1, 2):
        clips = ClipSampler(store, 3, 2, np.random.default_rng(0), stride=stride).sample()
        assert clips.shape == (3, 2, size, size, 3)


def test_a_store_that_does_not_say_is_of_64(tmp_path: Path) -> None:
    found = write(tmp_path / "videos", 64, 3)
    manifest = tmp_path / "videos" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["image_size"], content["checksum"]
    manifest.write_text(json.dumps(content))
    store = VideoStore(tmp_path / "videos")
    assert store.image_size == 64
    assert_holds(store, found)


def test_frames_of_another_size_than_the_store_s_are_refused(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "videos", {}, 6, image_size=128) as writer:
        with pytest.raises(DataError, match=r"shape \(2, 64, 64, 3\), expected \(T, 128, 128, 3\)"):
            writer.append(episodes(64, 2)[0], "task")
        writer.append(episodes(128, 2)[0], "task")


def test_a_writer_continues_at_the_size_of_the_store(tmp_path: Path) -> None:
    one, two = episodes(128, 3, 2)
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "videos", {}, 6, image_size=128) as writer:  # noqa: PT012
        writer.append(one, "task")
        raise KeyboardInterrupt
    with VideoWriter.resume(tmp_path / "videos", 6) as writer:
        with pytest.raises(DataError, match="expected"):
            writer.append(episodes(64, 2)[0], "task")
        writer.append(two, "task")
    assert_holds(VideoStore(tmp_path / "videos"), [one, two])


def test_a_shard_of_another_size_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "videos", 64, 3)
    manifest = tmp_path / "videos" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "image_size": 128}))
    store = VideoStore(tmp_path / "videos", verify=False)
    with pytest.raises(DataError, match=r"shard-00000\.arrow: frames have shape \(3, 64, 64, 3\)"):
        store.frames(0)


def test_a_size_that_networks_do_not_take_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "videos", 64, 3)
    manifest = tmp_path / "videos" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "image_size": 96}))
    with pytest.raises(DataError, match=r"manifest\.json: damaged at image_size"):
        VideoStore(tmp_path / "videos")


def test_a_run_of_another_size_is_refused_with_store_sizes_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "videos"
    write(path, 64, 3)
    video = VideoConfig(path=str(path))
    assert VideoMixture.open(video, 64).image_size == 64
    with pytest.raises(DataError) as caught:
        VideoMixture.open(video, 128)
    assert str(caught.value) == (
        f"{path}: holds frames of 64 x 64 pixels, and env.image_size=128; set env.image_size=64, or record "
        "(env.image_size=128) or prepare (--image-size 128) the videos at that size"
    )


def test_stores_of_different_sizes_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "small", 64, 3)
    write(tmp_path / "large", 128, 3)
    paths = tuple(str(tmp_path / name) for name in ("small", "large"))
    with pytest.raises(DataError) as caught:
        VideoMixture([VideoStore(tmp_path / name) for name in ("small", "large")])
    assert str(caught.value) == (
        f"video.path: {paths[0]} holds frames of 64 x 64 pixels, {paths[1]} of 128 x 128; leave one out, or record or "
        "prepare them at one size"
    )
    for size, other in ((64, "large"), (128, "small")):
        with pytest.raises(DataError, match=rf"{other}: holds frames of"):
            VideoMixture.open(VideoConfig(path=paths), size)


def test_merging_and_splitting_keep_the_size(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", 128, 3, 2), write(tmp_path / "two", 128, 5)
    pairs = [(tmp_path / name, VideoStore(tmp_path / name)) for name in ("one", "two")]
    merge(pairs, tmp_path / "both", nothing)
    both = VideoStore(tmp_path / "both")
    assert both.image_size == 128
    assert_holds(both, [*one, *two])
    parts = tmp_path / "a", tmp_path / "b"
    split(both, tmp_path / "both", share_of(both, 0.5, np.random.default_rng(0)), parts, nothing)
    assert [VideoStore(part).image_size for part in parts] == [128, 128]


def test_stores_of_different_sizes_are_not_merged(tmp_path: Path) -> None:
    write(tmp_path / "small", 64, 3)
    write(tmp_path / "large", 128, 3)
    pairs = [(tmp_path / name, VideoStore(tmp_path / name)) for name in ("small", "large")]
    with pytest.raises(UsageError, match=r"large: holds frames of 128 x 128 pixels, .*small of 64 x 64; a store has"):
        merge(pairs, tmp_path / "both", nothing)
    assert not (tmp_path / "both").exists()


def test_sheets_and_films_show_large_frames(tmp_path: Path) -> None:
    (frames,) = write(tmp_path / "videos", 128, 4)
    write_sheet(tmp_path / "sheet.png", VideoStore(tmp_path / "videos"), 1, np.random.default_rng(0))
    write_film(tmp_path / "film.mp4", [frames])
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    assert (tmp_path / "film.mp4").stat().st_size > 1_000
