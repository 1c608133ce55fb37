"""Preparing as tasks of a Ray: the bytes of a local preparation, and a task that dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from prelar_ray.distributed import preparation
from prelar_ray.distributed.preparation import prepare_on_ray
from prelar_ray.preparation.conversion import Converted, Converter
from prelar_ray.preparation.ordered import convert_here
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

    def dying(converter: Converter, source: int, item: Item) -> Iterator[Converted]:
        for found in converter.convert(source, item):
            yield found
            if item.key.startswith("20260101"):
                os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(preparation, "_task", ray.remote(dying))
    summary = prepare_on_ray(settings, tmp_path / "died", address, 2, False, lambda items, frames: None)
    assert [reason.split(": ")[1] for reason in summary.left_out] == ["its task died"]
    # Its first piece may have been on its way.
    assert VideoStore(tmp_path / "died").total_frames - VideoStore(tmp_path / "local").total_frames in (-30, -23)
