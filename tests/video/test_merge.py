from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelar_ray.errors import RunFolderError, UsageError
from prelar_ray.seeding import generator
from prelar_ray.types import Frames
from prelar_ray.video import merge as merging
from prelar_ray.video.actions import ActionFile, ActionWriter, actions_path
from prelar_ray.video.merge import merge, share_of, sources_of, split
from prelar_ray.video.seen import SeenVideos
from prelar_ray.video.store import VideoStore, VideoWriter
from tests.video.stores import assert_holds, episode


def write(
    path: Path, seeds: range, compression: str = "none", shard_frames: int = 6, **attributes: str
) -> list[Frames]:
    """Episodes of 3 to 5 frames with a source each, and the actions of those with even seeds."""
    episodes = [episode(3 + seed % 3, seed) for seed in seeds]
    actions = ActionWriter(actions_path(path), shard_frames)
    with VideoWriter(path, attributes, shard_frames, compression) as writer, actions:  # type: ignore[arg-type]
        for seed, frames in zip(seeds, episodes, strict=True):
            if seed % 2 == 0:
                actions.append(np.full((len(frames), 2), seed, np.float32), frames, f"task-{seed % 3}")
            writer.append(frames, f"task-{seed % 3}")
    return episodes


def merged(out: Path, *paths: Path) -> VideoStore:
    merge([(path, VideoStore(path)) for path in paths], out, lambda shards: None)
    return VideoStore(out)


def parted(path: Path, chosen: np.ndarray) -> tuple[VideoStore, VideoStore]:
    out = path.with_name("a"), path.with_name("b")
    split(VideoStore(path), path, chosen, out, lambda shards: None)
    return VideoStore(out[0]), VideoStore(out[1])


def test_a_merged_store_holds_all_episodes_in_order_and_its_shards_are_those_of_before(tmp_path: Path) -> None:
    episodes = write(tmp_path / "one", range(4)) + write(tmp_path / "two", range(4, 9), "lz4")
    one, two, both = (
        VideoStore(tmp_path / "one"),
        VideoStore(tmp_path / "two"),
        merged(tmp_path / "both", *map(tmp_path.joinpath, ("one", "two"))),
    )
    assert_holds(both, episodes)
    assert both.sources == one.sources + two.sources
    assert both.origins == one.origins + two.origins
    assert (both.complete, both.compression) == (True, "mixed")
    assert both.file(0).samefile(one.file(0))
    seen = SeenVideos.of(one, [1])
    assert seen.unseen(both) == [1, *range(4, 9)]  # a run keeps what it held out


def test_where_nothing_can_be_linked_shards_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    episodes = write(tmp_path / "one", range(4)) + write(tmp_path / "two", range(4, 6))
    monkeypatch.setattr(merging.os, "link", refused)
    both = merged(tmp_path / "both", tmp_path / "one", tmp_path / "two")
    assert_holds(both, episodes)
    assert not both.file(0).samefile(tmp_path / "one" / "shard-00000.arrow")


def test_attributes_that_differ_are_kept_by_store(tmp_path: Path) -> None:
    write(tmp_path / "one", range(2), camera="corner", policy="expert")
    write(tmp_path / "two", range(2, 4), camera="corner", policy="random", fps="10")
    assert merged(tmp_path / "both", tmp_path / "one", tmp_path / "two").attributes == {
        "camera": "corner",
        "policy": {"one": "expert", "two": "random"},
        "fps": {"one": None, "two": "10"},
    }


def test_actions_go_along(tmp_path: Path) -> None:
    episodes = write(tmp_path / "one", range(4)) + write(tmp_path / "two", range(4, 9))
    merged(tmp_path / "both", tmp_path / "one", tmp_path / "two")
    actions = ActionFile(actions_path(tmp_path / "both"))
    assert [(found := actions.of(frames)) is not None and found[0, 0] for frames in episodes] == [
        seed if seed % 2 == 0 else False for seed in range(9)
    ]
    chosen = np.arange(9) < 3
    parted(tmp_path / "both", chosen)
    first, second = (ActionFile(actions_path(tmp_path / name)) for name in ("a", "b"))
    assert (len(first), len(second)) == (2, 3)
    assert first.of(episodes[2]) is not None
    assert second.of(episodes[2]) is None


@settings(max_examples=15)
@given(st.lists(st.booleans(), min_size=2, max_size=9), st.integers(1, 20), st.sampled_from(["none", "zstd"]))
def test_the_parts_of_a_store_hold_each_episode_once_in_its_order(
    tmp_path_factory: pytest.TempPathFactory, flags: list[bool], shard_frames: int, compression: str
) -> None:
    path, chosen = tmp_path_factory.mktemp("split") / "store", np.array(flags)
    episodes = write(path, range(len(flags)), compression, shard_frames, camera="corner")
    if chosen.all() or not chosen.any():
        with pytest.raises(UsageError, match=r"no episode would be in it"):
            parted(path, chosen)
        assert not path.with_name("a").exists()
        return
    for store, mask in zip(parted(path, chosen), (chosen, ~chosen), strict=True):
        assert_holds(store, [episodes[index] for index in np.flatnonzero(mask)])
        assert store.sources == [f"task-{index % 3}" for index in np.flatnonzero(mask)]
        assert (store.attributes, store.complete, store.compression) == ({"camera": "corner"}, True, compression)


def test_shards_whose_episodes_stay_together_are_linked(tmp_path: Path) -> None:
    write(tmp_path / "store", range(6))
    store = VideoStore(tmp_path / "store")
    first, second = parted(tmp_path / "store", np.array([True, True, True, False, False, False]))
    assert [len(shard.lengths) for shard in store.shards] == [2, 2, 2]
    assert first.file(0).samefile(store.file(0))
    assert second.file(1).samefile(store.file(2))


def test_a_share_is_drawn_at_random_and_the_same_for_a_seed(tmp_path: Path) -> None:
    write(tmp_path / "store", range(40))
    store = VideoStore(tmp_path / "store")
    chosen = share_of(store, 0.8, generator(0, "test"))
    assert chosen.sum() == 32
    assert not chosen[:32].all()
    np.testing.assert_array_equal(chosen, share_of(store, 0.8, generator(0, "test")))
    assert not np.array_equal(chosen, share_of(store, 0.8, generator(1, "test")))


def test_sources_are_chosen_by_name(tmp_path: Path) -> None:
    write(tmp_path / "store", range(6))
    store = VideoStore(tmp_path / "store")
    assert sources_of(store, ["task-1", "task-2"]).tolist() == [False, True, True] * 2
    with pytest.raises(UsageError, match=r"--sources push: no episode has this source; there are task-0, task-1, "):
        sources_of(store, ["task-1", "push"])


def test_a_store_is_not_merged_with_itself(tmp_path: Path) -> None:
    write(tmp_path / "one", range(3))
    with pytest.raises(UsageError, match=r"one: shard-00000\.arrow is also in .*one; its videos would count twice"):
        merged(tmp_path / "both", tmp_path / "one", tmp_path / "one")
    assert not (tmp_path / "both").exists()


def test_a_store_that_holds_the_same_videos_twice_can_be_merged(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "one", {}, 3) as writer:
        for _ in range(2):
            writer.append(episode(3, 0), "a")
    write(tmp_path / "two", range(2))
    assert len(merged(tmp_path / "both", tmp_path / "one", tmp_path / "two")) == 4


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "one", range(3))
    write(tmp_path / "two", range(3, 6))
    with pytest.raises(RunFolderError, match="two already holds a video store|two.actions.arrow already holds"):
        merged(tmp_path / "two", tmp_path / "one")
    actions_path(tmp_path / "two").unlink()
    with pytest.raises(RunFolderError, match="two already holds a video store"):
        merged(tmp_path / "two", tmp_path / "one")
    assert len(VideoStore(tmp_path / "two")) == 3


def test_the_parts_of_a_split_are_two_folders(tmp_path: Path) -> None:
    write(tmp_path / "one", range(4))
    with pytest.raises(UsageError, match="part: twice; name two new folders"):
        split(
            VideoStore(tmp_path / "one"),
            tmp_path / "one",
            np.arange(4) < 2,
            (tmp_path / "part",) * 2,
            lambda shards: None,
        )
    assert not (tmp_path / "part").exists()


def test_a_split_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "store", range(6))

    def interrupt(shards: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        split(
            VideoStore(tmp_path / "store"),
            tmp_path / "store",
            np.arange(6) < 3,
            (tmp_path / "a", tmp_path / "b"),
            interrupt,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "store.actions.arrow"]
