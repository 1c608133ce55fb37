"""Decoded frames of a video file to pictures of the store's size, by swscale, without a copy of the full size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, cast

import av
import numpy as np
from av.buffer import Buffer
from av.filter import Graph
from av.video.reformatter import ColorPrimaries, ColorTrc, Interpolation, VideoReformatter

from prelar_ray.sources.geometry import Box, Geometry
from prelar_ray.sources.pictures import Frame
from prelar_ray.sources.placement import Orientation, Placement

__all__ = ["HIGH_DYNAMIC_RANGE", "FrameScaler", "VideoPicture", "filtering", "orientation"]

HIGH_DYNAMIC_RANGE: Final = frozenset({int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67)})
"""Transfer characteristics PQ and HLG: taken for those of BT.709 their values look dim and grey."""


def orientation(frame: av.VideoFrame, aspect: Fraction) -> Orientation:
    """Return how a frame becomes upright: by its display matrix, which PyAV reads and does not apply.

    It may mirror too, where ``frame.rotation`` alone is half a turn off. Asking for the matrix makes a cycle that
    keeps the frame until the next garbage collection: not for every frame.
    """
    try:
        matrix = cast(Mapping[str, Buffer], frame.side_data).get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know all types of side data
        return Orientation(aspect, round(frame.rotation / 90) % 4)
    if matrix is None:
        return Orientation(aspect)
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(matrix), np.int32)[:5])
    mirrored = a * d - b * c < 0
    degrees = -math.degrees(math.atan2(b, -a if mirrored else a))
    return Orientation(aspect, round(degrees / 90) % 4, mirrored)


class FrameScaler:
    """Scales the frames of one stream; what swscale needs is made once, and again only where the frames change."""

    def __init__(self, aspect: Fraction = Fraction(1), transparent: bool = False) -> None:
        self._aspect = aspect  # width of a pixel by its height
        self._transparent = transparent  # alpha is meant, as in a GIF: black shines through
        self._reformatter = VideoReformatter()
        self._crop: Graph | None = None
        self._key: tuple[Any, ...] = ()
        self._placement: Placement | None = None

    def __call__(self, frame: av.VideoFrame, geometry: Geometry) -> Frame:
        """Return a frame as the store holds it, uint8 ``(Hpx, Wpx, C)``.

        Raises:
            DataError: ``geometry.crop`` reaches beyond the frame.
        """
        if self._transparent:
            frame = _over_black(frame)
        key = geometry, frame.width, frame.height, frame.format.name, frame.rotation
        if self._placement is None or key != self._key:
            upright = orientation(frame, self._aspect)
            self._placement = Placement.of(geometry, frame.width, frame.height, upright)
            self._crop = _crop(frame, self._placement.part)
            self._key = key
        if self._crop is not None:
            self._crop.vpush(frame)
            frame = self._crop.vpull()
        high = frame.color_trc in HIGH_DYNAMIC_RANGE
        scaled = self._reformatter.reformat(
            frame,
            self._placement.width,
            self._placement.height,
            "rgb24",
            interpolation=Interpolation.BICUBIC,  # as the published frames were made
            dst_color_trc=ColorTrc.BT709 if high else None,
            dst_color_primaries=ColorPrimaries.BT709 if high else None,
            threads=1,
        )
        return self._placement.finish(scaled.to_ndarray().astype(np.uint8, copy=False))


@dataclass(frozen=True)
class VideoPicture:
    """A decoded frame; it is scaled only if it is kept."""

    frame: av.VideoFrame
    scaler: FrameScaler

    def square(self, geometry: Geometry) -> Frame:
        """See :meth:`Picture.square <prelar_ray.sources.pictures.Picture.square>`."""
        return self.scaler(self.frame, geometry)


def filtering(frame: av.VideoFrame, name: str, **options: str) -> Graph:
    """Return a filter of FFmpeg for frames like this one."""
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    graph.link_nodes(source, graph.add(name, **options), graph.add("buffersink")).configure()
    return graph


def _crop(frame: av.VideoFrame, part: Box) -> Graph | None:
    """Return a filter that keeps ``part`` without copying it, or None if that is all."""
    if part == Box(frame.width, frame.height, 0, 0):
        return None
    width, height, x, y = map(str, part)
    return filtering(frame, "crop", w=width, h=height, x=x, y=y, exact="1")


def _over_black(frame: av.VideoFrame) -> av.VideoFrame:
    """Return the frame with its transparent pixels composed over black, before scaling could mix them in."""
    pixels = frame.to_ndarray(format="rgba").astype(np.uint16)
    opaque = (pixels[..., :3] * pixels[..., 3:] + 127) // 255
    return av.VideoFrame.from_ndarray(opaque.astype(np.uint8), format="rgb24")
