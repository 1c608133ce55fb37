"""Video stores that tests write, and their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from prelar_ray.types import Frames
from prelar_ray.video.store import VideoStore, VideoWriter

ATTRIBUTES = {"camera": "corner", "orientation": "upright", "render_quality": "fast", "policy": "expert"}


def episode(length: int, seed: int = 0) -> Frames:
    return np.random.default_rng([seed, length]).integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)


def record(path: Path, lengths: list[int], shard_frames: int = 6) -> list[Frames]:
    episodes = [episode(length, seed) for seed, length in enumerate(lengths)]
    with VideoWriter(path, ATTRIBUTES, shard_frames) as writer:
        for index, frames in enumerate(episodes):
            writer.append(frames, f"metaworld/task-{index}")
    return episodes


def assert_holds(store: VideoStore, episodes: list[Frames]) -> None:
    assert len(store) == len(episodes)
    assert store.lengths.tolist() == [len(frames) for frames in episodes]
    assert store.total_frames == sum(len(frames) for frames in episodes)
    for index, frames in enumerate(episodes):
        np.testing.assert_array_equal(store.frames(index), frames)


def files(path: Path) -> dict[str, bytes]:
    """Content of the files of a store by name."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


def edit_manifest(path: Path, **changes: Any) -> None:
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))


def lines(path: Path) -> list[dict[str, Any]]:
    """The journal of a store."""
    return [json.loads(line) for line in (path / "shards.jsonl").read_text().splitlines()]


def edit_first_line(path: Path, **changes: Any) -> None:
    first, *others = lines(path)
    text = "".join(json.dumps(line) + "\n" for line in [{**first, **changes}, *others])
    (path / "shards.jsonl").write_text(text)


def episodes_of(line: dict[str, Any]) -> str:
    """The text about its episodes in a shard."""
    return json.dumps(
        [{"source": source, "length": length} for source, length in zip(line["sources"], line["lengths"], strict=True)]
    )


def to_version_1(path: Path, **changes: Any) -> None:
    """Rewrite a store as earlier releases did, with all shards in the manifest."""
    manifest, shards = json.loads((path / "manifest.json").read_text()), []
    for line in lines(path):
        kept = {key: line[key] for key in ("file", "frames", "bytes", "sha256")}
        shards.append({**kept, "episodes": json.loads(episodes_of(line))})
    old = {"format": manifest["format"], "version": 1, "attributes": manifest["attributes"], "complete": True}
    (path / "manifest.json").write_text(json.dumps({**old, "shards": shards, **changes}))
    (path / "shards.jsonl").unlink()
