from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prelar_ray.errors import DataError
from prelar_ray.video.clips import ClipSampler
from prelar_ray.video.seen import SeenVideos
from prelar_ray.video.store import VideoStore, VideoWriter


def write(path: Path, values: list[int]) -> VideoStore:
    """Episodes of four frames and one value, two in a shard."""
    with VideoWriter(path, {}, 8) as writer:
        for value in values:
            writer.append(np.full((4, 64, 64, 3), value, np.uint8), "test")
    return VideoStore(path)


def test_a_copy_of_a_store_is_known_and_another_store_is_not(tmp_path: Path) -> None:
    store = write(tmp_path / "one", [1, 2, 3, 4])
    seen = SeenVideos.of(store, [1, 2])
    copy, other = write(tmp_path / "copy", [1, 2, 3, 4]), write(tmp_path / "other", [5, 6, 7])
    assert seen.know(store)
    assert seen.know(copy)
    assert seen.unseen(copy) == seen.held_out(copy) == [1, 2]
    assert not seen.know(other)
    assert seen.held_out(other) == []
    assert seen.unseen(other) == [0, 1, 2]


def test_new_videos_of_a_store_that_has_grown_were_not_seen(tmp_path: Path) -> None:
    seen = SeenVideos.of(write(tmp_path / "one", [1, 2]), [1])
    grown = write(tmp_path / "grown", [1, 2, 3, 4])
    assert seen.held_out(grown) == [1]
    assert seen.unseen(grown) == [1, 2, 3]
    assert seen.extended(grown, seen.held_out(grown)).unseen(grown) == [1]


def test_a_lost_shard_moves_what_was_held_out_to_its_new_place(tmp_path: Path) -> None:
    seen = SeenVideos.of(write(tmp_path / "one", [1, 2, 3, 4]), [3])
    (tmp_path / "one" / "shard-00000.arrow").unlink()
    assert seen.held_out(VideoStore(tmp_path / "one", skip_bad=True)) == [1]


def test_older_checkpoints_are_taken_to_be_of_the_store_that_is_looked_at(tmp_path: Path) -> None:
    store = write(tmp_path / "one", [1, 2, 3])
    assert SeenVideos.load({"held_out": [1, 7]}, store).unseen(store) == [1]
    assert SeenVideos.load({}, store).unseen(store) == []
    shards = SeenVideos.of(store, [2]).shards
    assert SeenVideos.load({"held_out": [0], "shards": shards}, store).unseen(store) == [2]


def test_where_all_is_held_out_it_is_not_the_length_that_is_blamed(tmp_path: Path) -> None:
    store = write(tmp_path / "one", [1, 2])
    with pytest.raises(DataError, match=r"^all 2 videos of 3 frames or more are held out of training"):
        ClipSampler(store, 1, 3, np.random.default_rng(0), without=[0, 1])
