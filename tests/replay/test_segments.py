from __future__ import annotations

import errno
import logging
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelar_ray.errors import DataError
from prelar_ray.replay.segments import EpisodeStore
from prelar_ray.storage.arrow import read_arrays, write_arrays
from prelar_ray.types import Episode


def make(number: int, length: int = 4, actions: int = 2, env_index: int = 0, seed: int = 0) -> Episode:
    rng = np.random.default_rng([seed, number, length])
    return Episode(
        image=rng.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8),
        action=rng.normal(size=(length, actions)).astype(np.float32),
        reward=rng.normal(size=length).astype(np.float32),
        is_first=np.arange(length) == 0,
        is_terminal=rng.random(length) > 0.5,
        success=rng.random(length) > 0.5,
        env_index=env_index,
        number=number,
        weight_version=number - 1,
    )


def assert_same(one: Episode, two: Episode) -> None:
    for field in fields(Episode):
        left, right = getattr(one, field.name), getattr(two, field.name)
        assert type(left) is type(right)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


@settings(max_examples=15)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 12_345), st.integers(0, 1_234_567), st.integers(0, 2**32))
def test_an_episode_survives_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, length: int, actions: int, env_index: int, number: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("replay")
    episode = make(number, length, actions, env_index, seed)
    EpisodeStore(path).append(episode)
    restored = EpisodeStore(path).load(episode.key)
    assert_same(restored, episode)
    assert restored.image.flags.owndata
    restored.validate()


def test_order_of_insertion_survives_a_restart(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    episodes = [make(7), make(2, env_index=3), make(5), make(0, env_index=1)]
    for episode in episodes:
        store.append(episode)
    for reader in (store, EpisodeStore(tmp_path)):
        assert reader.keys() == [episode.key for episode in episodes]
        assert reader.appended == 4
        for loaded, episode in zip(reader.iterate(), episodes, strict=True):
            assert_same(loaded, episode)


def test_the_same_key_is_stored_once(tmp_path: Path) -> None:
    first = make(1, seed=1)
    store = EpisodeStore(tmp_path)
    store.append(first)
    store.append(make(1, seed=2))
    store = EpisodeStore(tmp_path)
    store.append(make(1, seed=3))
    assert len(files(tmp_path)) == 1
    assert_same(store.load(first.key), first)


def test_discarded_episodes_are_gone_and_the_order_continues(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    episodes = [make(number) for number in range(4)]
    for episode in episodes[:3]:
        store.append(episode)
    store.discard([episodes[0].key, episodes[1].key, "env0009-episode000009"])
    store.append(episodes[3])
    for reader in (store, EpisodeStore(tmp_path)):
        assert reader.keys() == [episodes[2].key, episodes[3].key]
        assert reader.appended == 4
    assert files(tmp_path) == ["00000002-env0000-episode000002.arrow", "00000003-env0000-episode000003.arrow"]
    with pytest.raises(DataError, match="holds no episode env0000-episode000000"):
        store.load(episodes[0].key)


def test_upto_names_a_moment_even_after_discards(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    for number in range(3):
        store.append(make(number))
    moment = store.appended
    store.append(make(3))
    store.discard([make(0).key])
    store = EpisodeStore(tmp_path)
    assert store.keys(moment) == [make(1).key, make(2).key]
    assert [episode.number for episode in store.iterate(moment)] == [1, 2]
    assert [episode.number for episode in store.iterate()] == [1, 2, 3]
    assert list(store.iterate(0)) == []


def test_what_a_killed_writer_left_is_removed_and_other_files_stay(tmp_path: Path) -> None:
    EpisodeStore(tmp_path).append(make(0))
    (tmp_path / "00000001-env0000-episode000001.arrow.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").touch()
    store = EpisodeStore(tmp_path)
    assert store.keys() == [make(0).key]
    assert files(tmp_path) == ["00000000-env0000-episode000000.arrow", "notes.txt"]


def test_every_damage_is_noticed_or_harmless(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    episode = make(0, length=1)
    store.append(episode)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    rng = np.random.default_rng(5)
    outside_frames = [*range(1, 2000), *range(len(content) - 2000, len(content))]
    refusals = []
    for byte in [*rng.choice(outside_frames, 200).tolist(), *rng.integers(len(content), size=100).tolist()]:
        damaged = bytearray(content)
        damaged[byte] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = store.load(episode.key)
        except DataError as error:
            refusals.append(str(error))
        else:  # padding, which nobody reads
            assert_same(loaded, episode)
    assert len(refusals) > 100
    assert all(str(path) in refusal for refusal in refusals)
    for length in [0, len(content) - 1, *rng.integers(len(content), size=30).tolist()]:
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=path.name):
            store.load(episode.key)


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    store.append(make(0))
    (path,) = tmp_path.iterdir()
    arrays, metadata = read_arrays(path, copy=True)
    write_arrays(path, arrays, {**metadata, "weight_version": "7"})
    with pytest.raises(DataError, match="the checksum differs"):
        store.load(make(0).key)


def test_damage_raises_unless_it_is_to_be_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = EpisodeStore(tmp_path)
    for number in range(3):
        store.append(make(number))
    path = tmp_path / "00000001-env0000-episode000001.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    store = EpisodeStore(tmp_path)
    with pytest.raises(DataError, match=r"00000001-env0000-episode000001\.arrow: the checksum differs"):
        store.load_all()
    with caplog.at_level(logging.WARNING):
        episodes = store.load_all(skip_bad=True)
    assert [episode.number for episode in episodes] == [0, 2]
    assert "episode env0000-episode000001 is left out" in caplog.text


def test_a_renamed_file_is_noticed(tmp_path: Path) -> None:
    EpisodeStore(tmp_path).append(make(0))
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / "00000000-env0000-episode000009.arrow")
    with pytest.raises(DataError, match="holds env0000-episode000000, not what its name says"):
        EpisodeStore(tmp_path).load("env0000-episode000009")


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EpisodeStore(tmp_path)
    store.append(make(0))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"episode000001\.arrow.*No space left.*GiB free"):
            store.append(make(1))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert store.keys() == [make(0).key]
    store.append(make(1))  # once there is space again
    assert EpisodeStore(tmp_path).keys() == [make(0).key, make(1).key]


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: cannot hold episodes"):
        EpisodeStore(tmp_path / "file")
