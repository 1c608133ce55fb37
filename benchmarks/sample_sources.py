"""Small folders of other formats, made of the frames of video files: to try `prelar-ray prepare` on.

Written below DIR: ``ssv2-frames-64`` with ``train_video_folder.txt`` (folders of numbered images and their list, as
Something-Something V2 is used), ``rlbench-npz`` (APV's episodes), ``lerobot-v2`` and ``lerobot-v3`` (their own json,
parquet and mp4; actions are made up).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Clip = npt.NDArray[np.uint8]  # (T, H, W, C)
RATE = 25
CAMERA = "observation.images.front"
LENGTH = 60
"""Frames of an episode."""
V2 = (
    "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
)
V3 = (
    "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
)


def frames_of(path: Path, width: int, height: int) -> Clip:
    """Return all frames of a video file, squeezed."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        found = [frame.reformat(width, height, "rgb24", interpolation="BICUBIC") for frame in container.decode(stream)]
        return np.stack([frame.to_ndarray() for frame in found])


def write_video(path: Path, clip: Clip) -> None:
    """Encode a clip with a key frame every second frame, as LeRobot does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": "2", "crf": "23"})
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for number, pixels in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_ssv2(folder: Path, clips: Sequence[Clip]) -> None:
    """Write folders of images, numbered from 1, and the list ``id frames class``."""
    lines = []
    for number, clip in enumerate(clips):
        images = folder / "ssv2-frames-64" / str(1000 + number)
        images.mkdir(parents=True)
        for index, pixels in enumerate(clip):
            Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(images / f"{index + 1:06d}.jpg")
        lines.append(f"{1000 + number} {len(clip)} {number % 3}\n")
    (folder / "train_video_folder.txt").write_text("".join(lines))


def write_npz(folder: Path, clips: Sequence[Clip], rng: np.random.Generator) -> None:
    """Write an npz file for each episode, as APV and DreamerV2 do."""
    (folder / "rlbench-npz").mkdir(parents=True)
    for number, clip in enumerate(clips):
        image = np.stack([np.asarray(Image.fromarray(pixels).resize((64, 64))) for pixels in clip])
        rows: dict[str, Any] = {
            "image": image,
            "action": _actions(len(clip), rng),
            "reward": np.zeros(len(clip), np.float32),
        }
        rows["is_first"] = np.arange(len(clip)) == 0
        name = f"20260101T0000{number:02d}-{number:032x}-{len(clip) - 1}.npz"
        np.savez_compressed(folder / "rlbench-npz" / name, **rows)


def write_lerobot(folder: Path, clips: Sequence[Clip], version: str, rng: np.random.Generator) -> None:
    """Write a LeRobot folder: of version 2.1 an mp4 for each episode, of 3.0 one for all of them."""
    data, video = V2 if version == "v2.1" else V3
    features: dict[str, Any] = {
        CAMERA: {"dtype": "video", "shape": list(clips[0].shape[1:])},
        "action": {"dtype": "float32", "shape": [4]},
    }
    info = {"codebase_version": version, "fps": RATE, "chunks_size": 1000, "data_path": data, "video_path": video}
    info |= {"features": features, "total_episodes": len(clips), "total_frames": sum(map(len, clips))}
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    tables = [_rows(number, len(clip), rng) for number, clip in enumerate(clips)]
    if version == "v2.1":
        lines = [{"episode_index": i, "tasks": [f"task {i % 2}"], "length": len(clip)} for i, clip in enumerate(clips)]
        (folder / "meta" / "episodes.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        for number, (clip, table) in enumerate(zip(clips, tables, strict=True)):
            write_video(folder / video.format(episode_chunk=0, video_key=CAMERA, episode_index=number), clip)
            _write(folder / data.format(episode_chunk=0, episode_index=number), table)
        return
    write_video(folder / video.format(video_key=CAMERA, chunk_index=0, file_index=0), np.concatenate(clips))
    _write(folder / data.format(chunk_index=0, file_index=0), pa.concat_tables(tables))
    starts = np.cumsum([0, *(len(clip) / RATE for clip in clips)]).tolist()
    episodes = [
        {
            "episode_index": number,
            "tasks": [f"task {number % 2}"],
            "length": len(clip),
            "data/chunk_index": 0,
            "data/file_index": 0,
            f"videos/{CAMERA}/chunk_index": 0,
            f"videos/{CAMERA}/file_index": 0,
            f"videos/{CAMERA}/from_timestamp": starts[number],
            f"videos/{CAMERA}/to_timestamp": starts[number + 1],
        }
        for number, clip in enumerate(clips)
    ]
    _write(folder / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(episodes))


def _rows(number: int, length: int, rng: np.random.Generator) -> pa.Table:
    columns = {"episode_index": [number] * length, "frame_index": list(range(length))}
    columns["timestamp"] = [index / RATE for index in range(length)]  # type: ignore[misc]
    actions = pa.array(_actions(length, rng).tolist(), pa.list_(pa.float32()))
    return pa.table({**columns, "action": actions})


def _actions(length: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return rng.uniform(-1, 1, (length, 4)).astype(np.float32)


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def main(argv: Sequence[str]) -> int:
    """Write the folders."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks sample_sources", description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="video files")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="new folder")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    whole = [frames_of(path, 160, 120) for path in args.videos]
    clips = [clip[start : start + LENGTH] for clip in whole for start in range(0, len(clip) - LENGTH + 1, LENGTH)]
    if not clips:
        parser.error(f"no video has {LENGTH} frames; give a longer one")
    args.to.mkdir(parents=True)
    write_ssv2(args.to, clips)
    write_npz(args.to, clips, rng)
    write_lerobot(args.to / "lerobot-v2", clips, "v2.1", rng)
    write_lerobot(args.to / "lerobot-v3", clips, "v3.0", rng)
    sys.stdout.write(f"{len(clips)} episodes of {LENGTH} frames in each of four formats: {args.to}\n")
    return 0
