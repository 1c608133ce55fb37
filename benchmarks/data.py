"""Video stores as training reads them: clips from memory beside a plain copy of the same bytes; opening a large store.

``loading`` writes the frames of a store again with each compression and samples batches of clips from it, all in memory
after a first pass. ``of_memcpy`` is the speed relative to a plain copy of the same bytes in the same run. The large
store has sparse shards: opening it reads the journal and looks at the size of each file.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks.measuring import Result, Row, Timing, report_options, show, timed
from prelar_ray.config import load_config
from prelar_ray.storage.arrow import Compression
from prelar_ray.types import IMAGE_SIZE
from prelar_ray.video.clips import ClipSampler
from prelar_ray.video.journal import Journal
from prelar_ray.video.layout import ShardRecord
from prelar_ray.video.recorder import record
from prelar_ray.video.store import VideoStore, VideoWriter

CPU = torch.device("cpu")
FRAME_BYTES = IMAGE_SIZE * IMAGE_SIZE * 3
SHARD_FRAMES = 10_000
EPISODES, SHARDS = 170_000, 760
"""Of the large store."""
LENGTH = 45
"""Frames of each of its episodes."""
COLUMNS = {
    "seconds": ".4g",
    "seconds_min": ".4g",
    "seconds_max": ".4g",
    "gb_per_s": ".3g",
    "of_memcpy": ".0%",
    "batches_per_s": ".1f",
    "bytes_per_frame": ".0f",
}


def loading(videos: VideoStore, rows: int, length: int, repeats: int) -> list[Row]:
    """Return the rows of sampling ``rows`` clips of ``length`` frames, and of a copy of as many bytes."""
    source, target = (np.ones(rows * length * FRAME_BYTES, np.uint8) for _ in range(2))
    copied = timed(lambda: np.copyto(target, source), CPU, repeats)
    found = [_row("copy of a batch", source.nbytes, copied)]
    with tempfile.TemporaryDirectory() as folder:
        for compression in get_args(Compression):
            path = Path(folder) / compression
            with VideoWriter(path, {}, SHARD_FRAMES, compression) as writer:
                for episode, name in enumerate(videos.sources):
                    writer.append(videos.frames(episode), name)
            store = VideoStore(path)  # reads every file, to compare checksums
            sampler = ClipSampler(store, rows, length, np.random.default_rng(0))
            row = _row(f"{compression}, {rows} x {length}", source.nbytes, timed(sampler.sample, CPU, repeats))
            row |= {"of_memcpy": row["gb_per_s"] / found[0]["gb_per_s"], "batches_per_s": 1 / row["seconds"]}
            found.append(row | {"bytes_per_frame": store.bytes / store.total_frames})
    return found


def opening(episodes: int, shards: int, repeats: int) -> list[Row]:
    """Return the row of opening a store of many episodes whose checksums are known."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        journal = Journal.create(path, {}, "none")
        for counts in np.array_split(np.arange(episodes), shards):
            frames = len(counts) * LENGTH
            file, size = journal.new_file(), frames * FRAME_BYTES
            with (path / file).open("wb") as sparse:
                sparse.truncate(size)
            journal.add(
                ShardRecord(
                    file=file,
                    frames=frames,
                    bytes=size,
                    sha256="0" * 64,
                    sources=[f"something/class-{number % 174}" for number in counts.tolist()],
                    lengths=[LENGTH] * len(counts),
                )
            )
        journal.complete()
        journal.close()
        timing = timed(lambda: VideoStore(path, verify=False), CPU, repeats)
    return [{"name": f"open {episodes} episodes in {shards} shards", **timing.as_row()}]


def _row(name: str, size: int, timing: Timing) -> Row:
    return {"name": name, **timing.as_row(), "gb_per_s": size / timing.median / 1e9}


def main(argv: Sequence[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks data", description=__doc__)
    parser.add_argument("--videos", type=Path, metavar="STORE", help="frames to load (default: a small recording)")
    parser.add_argument(
        "--batch", nargs=2, type=int, default=[16, 25], metavar=("B", "T"), help="clips, frames of each"
    )
    parser.add_argument("--repeats", type=int, default=50)
    report_options(parser)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        path = args.videos or Path(folder) / "reach"
        if args.videos is None:
            recording = ["record.policy=random", "record.episodes_per_task=100", "record.frames_per_episode=100"]
            record(load_config("tiny", None, recording), path, lambda frames: None)
        rows = loading(VideoStore(path), args.clips, args.length, args.repeats)
    rows += opening(EPISODES, SHARDS, max(5, args.repeats // 10))
    settings = {"videos": str(args.videos or "point-reach"), "clips": args.clips, "length": args.length}
    show(Result("data", settings, {"device": "cpu"}, rows), COLUMNS, args)
    return 0
