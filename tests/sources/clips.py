"""Small video files with known content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from prelar_ray.sources.decoding import VideoFile
from prelar_ray.sources.geometry import Geometry
from prelar_ray.sources.pictures import Frame


def asymmetric(height: int = 64, width: int = 96) -> Frame:
    """A smooth picture whose turned and mirrored versions all differ, with a white corner at the top left."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 200 // width, y * 200 // height, np.full_like(x, 40)], -1).astype(np.uint8)
    picture[: height // 4, : width // 3] = 255
    return picture


def shades(number: int, height: int = 64, width: int = 96) -> list[Frame]:
    """Pictures of one colour each that grows brighter: the brightness says which it is, see :func:`told`."""
    return [np.full((height, width, 3), 8 * index, np.uint8) for index in range(number)]


def told(pixels: Frame) -> int:
    """Return the number of one of :func:`shades`."""
    return round(float(pixels.mean()) / 8)


def write(
    path: Path,
    pictures: Sequence[Frame],
    codec: str = "libx264",
    rate: int = 10,
    pix_fmt: str = "yuv420p",
    milliseconds: Sequence[int] | None = None,
    change: Callable[[Any], None] = lambda stream: None,
    mark: Callable[[av.VideoFrame], None] = lambda frame: None,
    **options: str,
) -> Path:
    """Encode pictures; ``change`` gets the stream first, ``mark`` each frame; times are given or those of the rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        change(stream)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[2] == 4 else "rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[index], Fraction(1, 1000)
            frame = frame.reformat(format=pix_fmt)
            mark(frame)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copied(source: Path, path: Path, change: Callable[[Any], None] = lambda packet: None, **arguments: Any) -> Path:
    """Copy the packets of a file into another after ``change``."""
    with av.open(str(source)) as old, av.open(str(path), "w", **arguments) as new:
        stream = old.streams.video[0]
        target = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                change(packet)
                packet.stream = target
                new.mux(packet)
    return path


def decode(path: Path, geometry: Geometry | None = None) -> tuple[list[float], list[Frame], list[str]]:
    """Return times, pictures and notes of a file."""
    with VideoFile(path) as video:
        read = [(time, picture.square(geometry or Geometry())) for time, picture in video.pictures()]
        return [time for time, _ in read], [pixels for _, pixels in read], video.notes
