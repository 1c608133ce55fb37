"""Preparing on a Ray: the bytes of a local preparation, an actor that dies, and fewer CPUs than actors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from prelar_ray.config import RunConfig
from prelar_ray.distributed.connection import connected
from prelar_ray.distributed.preparation import AHEAD, ActorPool, prepare_on_ray
from prelar_ray.preparation import prepare as prepare_module
from prelar_ray.preparation.conversion import Converted, Converter, Finished, Piece
from prelar_ray.preparation.ordered import convert_here, convert_in
from prelar_ray.preparation.prepare import Preparation, prepare
from prelar_ray.sources.selection import Selection
from prelar_ray.sources.source import Item
from prelar_ray.video.store import VideoStore


def files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


@pytest.mark.cluster
def test_tasks_prepare_the_same_bytes_and_one_that_dies_is_left_out(
    shared_ray: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = tmp_path / "episodes"
    episodes.mkdir()
    for number, length in enumerate((5, 30, 8, 11)):
        image = np.full((length, 64, 64, 3), number, np.uint8)
        np.savez(episodes / f"2026010{number}T000000-{number:032x}-{length - 1}.npz", image=image)
    settings = Preparation(sources=(episodes,), selection=Selection(max_frames=7), shard_frames=16, skip_bad=True)
    prepare(settings, tmp_path / "local", convert_here)
    address = str(shared_ray.address)
    prepare_on_ray(settings, tmp_path / "ray", address, 2, False, lambda items, frames: None)
    assert files(tmp_path / "ray") == files(tmp_path / "local")

    class Dying(Converter):
        def convert(self, source: int, item: Item) -> Iterator[Converted]:
            for found in super().convert(source, item):
                yield found
                if item.key.startswith("20260101"):
                    os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(prepare_module, "Converter", Dying)
    summary = prepare_on_ray(settings, tmp_path / "died", address, 2, False, lambda items, frames: None)
    assert [reason.split(": ")[1] for reason in summary.left_out] == ["its process died"]
    # Its first piece may have been on its way.
    assert VideoStore(tmp_path / "died").total_frames - VideoStore(tmp_path / "local").total_frames in (-30, -23)


@pytest.mark.cluster
def test_items_come_in_order_from_more_actors_than_there_are_cpus(shared_ray: Cluster, tmp_path: Path) -> None:
    class Long:
        def convert(self, source: int, item: Item) -> Iterator[Converted]:
            for index in range(3 * AHEAD):
                yield Piece(np.zeros((1, 64, 64, 3), np.uint8), f"{item.key}.{index}", None)
            yield Finished(0, ())

    with connected(RunConfig(cluster=str(shared_ray.address))):
        tasks = [(0, Item(f"{number}", ())) for number in range(8)]
        actors = 2 * int(ray.cluster_resources()["CPU"])
        found = convert_in(lambda: ActorPool(Long(), actors), tasks, ahead_bytes=1)  # type: ignore[arg-type]
        names = [piece.name for piece in found if isinstance(piece, Piece)]
    assert names == [f"{number}.{index}" for number in range(8) for index in range(3 * AHEAD)]
