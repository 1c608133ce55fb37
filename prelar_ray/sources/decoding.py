"""One video file from front to back with PyAV: what is decoded counts, whatever the file says of itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple, Self

import av
import av.error
from av.filter import Graph
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from prelar_ray.errors import DataError
from prelar_ray.sources.clock import Clock
from prelar_ray.sources.scaling import HIGH_DYNAMIC_RANGE, FrameScaler, VideoPicture, filtering, orientation
from prelar_ray.wording import counted

__all__ = ["Figures", "VideoFile"]

PLAYLISTS: Final = frozenset({"concat", "dash", "hls"})
TRANSPARENT: Final = frozenset({"gif", "apng"})
"""Codecs whose alpha is meant; that of videos is left away, as by players."""
RATE: Final = 25.0
"""Frames per second where neither frames nor file have times; FFmpeg's choice."""
SLACK: Final = (0.25, 0.02)
"""Seconds, and share of its length, that a file may end earlier than it says."""


class _Timed(NamedTuple):
    time: float  # seconds since the first
    frame: av.VideoFrame


@dataclass(frozen=True)
class Figures:
    """What a file says of itself; what is decoded may differ."""

    width: int
    """Of the upright picture, in square pixels."""
    height: int
    rate: float | None
    """Frames per second."""
    frames: int | None


class VideoFile:
    """An open video file, read once from front to back in one thread; memory does not grow with its length."""

    def __init__(self, file: Path | BinaryIO, name: str = "") -> None:
        """Open it; ``name`` is the one to use in errors.

        Raises:
            DataError: it cannot be opened, or has no video that can be decoded; says why.
        """
        self.name = name or str(file)
        self.notes: list[str] = []
        """What a user should know; complete once all pictures are read. May be replaced meanwhile."""
        try:
            # "file:" lets a name have a colon. Text that is not UTF-8 is no reason to refuse a video.
            address = f"file:{file}" if isinstance(file, Path) else file
            self._container = av.open(address, "r", metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise _not_opened(self.name, file, error) from error
        try:
            self._stream = self._video_stream()
        except BaseException:
            self._container.close()
            raise
        self._stream.thread_count = 1  # files are decoded beside each other, and threads of frames may hang

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def figures(self) -> Figures:
        """Return what the file says of itself; decodes its first frame, so pictures cannot be read afterwards.

        Raises:
            DataError: that frame cannot be decoded.
        """
        frame = next(self._decoded(Clock(RATE))).frame
        width, height = orientation(frame, self._aspect).size(frame.width, frame.height)
        rate = float(self._stream.average_rate) if self._stream.average_rate else None
        start, end = frame.time or 0.0, self._end()
        frames = self._stream.frames or (round((end - start) * rate) if end and rate else None)
        return Figures(width, height, rate, frames)

    def pictures(self) -> Iterator[tuple[float, VideoPicture]]:
        """Decode pictures front to back: seconds since the first, never falling, and the picture.

        Raises:
            DataError: the file is damaged; says how many pictures came before.
        """
        rate = self._stream.average_rate or self._stream.guessed_rate
        clock = Clock(float(rate) if rate else RATE)
        scaler = FrameScaler(self._aspect, self._stream.codec_context.name in TRANSPARENT)
        for time, frame in self._deinterlaced(self._decoded(clock)):
            yield time, VideoPicture(frame, scaler)

    @property
    def _aspect(self) -> Fraction:
        """Width of a stored pixel by its height."""
        return self._stream.sample_aspect_ratio or Fraction(1)

    def _video_stream(self) -> VideoStream:
        """Return the stream to decode: never a cover picture.

        Raises:
            DataError: there is none, or none that can be decoded.
        """
        name, kind = self.name, self._container.format.name
        if kind == "image2" or kind.endswith("_pipe"):
            raise DataError(f"{name}: a picture, not a video; folders of numbered pictures need --format frames")
        if kind in PLAYLISTS:
            raise DataError(f"{name}: a playlist, not a video; name the files that it lists")
        videos = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        best = self._container.streams.best("video")
        chosen = best if isinstance(best, VideoStream) and not _is_cover(best) else next(iter(videos), None)
        if chosen is None:
            found = ", ".join(sorted({stream.type for stream in self._container.streams})) or "nothing"
            raise DataError(f"{name}: no video stream ({found} only); leave it out")
        if not chosen.codec_context:
            raise DataError(f"{name}: no decoder for its codec; convert it to H.264, for example with ffmpeg")
        if chosen.codec_context.codec.name == "av1":  # FFmpeg's own, which needs hardware for it
            raise DataError(
                f"{name}: AV1, which this build of PyAV lacks a decoder (dav1d) for; pip install PyAV's wheel"
            )
        return chosen

    def _decoded(self, clock: Clock) -> Iterator[_Timed]:
        """Decode frames with their times; add to the notes.

        Raises:
            DataError: the file is damaged, or has no frame.
        """
        codec = self._stream.codec_context
        count = skipped = damaged = 0
        end = 0.0  # of the last frame, in the time of the file
        try:
            for packet in self._container.demux(self._stream):
                if not packet.is_discard:
                    clock.give(packet.pts, packet.dts, packet.time_base)
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    if count:
                        raise
                    skipped += 1  # recordings that begin between two key frames
                    continue
                for frame in frames:
                    if not count:
                        self._note_first(frame, skipped)
                    count += 1
                    damaged += frame.is_corrupt
                    timed = _Timed(clock.take(frame.time, codec.has_b_frames), frame)
                    end = clock.first + timed.time + float(frame.duration * (frame.time_base or 0))
                    yield timed
        except av.FFmpegError as error:
            raise DataError(
                f"{self.name}: damaged after {counted(count, 'frame')} ({error.strerror}); restore it from a copy"
            ) from error
        if not count:
            raise DataError(f"{self.name}: no frame can be decoded; restore it from a copy, or leave it out")
        if damaged:
            self.notes.append(f"{counted(damaged, 'frame')} damaged, kept as decoded")
        if clock.restarts:
            self.notes.append(f"times start again {counted(clock.restarts, 'time')}; continued")
        stated = self._end()
        if stated is not None and stated - end > max(SLACK[0], SLACK[1] * (stated - clock.first)):
            rate = self._stream.average_rate or count / max(end - clock.first, SLACK[0])
            self.notes.append(f"ends after {count} of about {round(float((stated - clock.first) * rate))} frames")

    def _note_first(self, frame: av.VideoFrame, skipped: int) -> None:
        if skipped:
            self.notes.append(f"{counted(skipped, 'packet')} before the first frame cannot be decoded; left out")
        if frame.color_trc in HIGH_DYNAMIC_RANGE:
            self.notes.append("high dynamic range (HDR), tone-mapped to BT.709")

    def _deinterlaced(self, frames: Iterator[_Timed]) -> Iterator[_Timed]:
        """Deinterlace from the first frame on that is flagged; each frame then waits for the next one."""
        graph, layout = None, None
        waiting: deque[float] = deque()  # times of frames in the filter
        for time, frame in frames:
            if graph is not None and layout != (frame.width, frame.height, frame.format.name):
                yield from _pulled(graph, waiting, last=True)
                graph = None
            if graph is None:
                if not frame.interlaced_frame:
                    yield _Timed(time, frame)
                    continue
                if layout is None:
                    self.notes.append("interlaced, deinterlaced by bwdif")
                layout = frame.width, frame.height, frame.format.name
                graph = filtering(frame, "bwdif", mode="send_frame", deint="interlaced")
            waiting.append(time)
            graph.vpush(frame)
            yield from _pulled(graph, waiting)
        if graph is not None:
            yield from _pulled(graph, waiting, last=True)

    def _end(self) -> float | None:
        """Return the time at which the file says that it ends, in seconds, or None."""
        stream, container = self._stream, self._container
        from_zero = "matroska" in container.format.name  # what it calls duration counts from there, not from its start
        if stream.duration is not None and stream.time_base:
            start = 0 if from_zero else stream.start_time or 0
            return float((start + stream.duration) * stream.time_base)
        if container.duration is not None:
            start = 0 if from_zero else container.start_time or 0
            return (start + container.duration) / av.time_base
        return None


def _pulled(graph: Graph, waiting: deque[float], last: bool = False) -> Iterator[_Timed]:
    """Take what a filter has ready, all of it if no frame follows; it keeps order and number."""
    if last:
        graph.vpush(None)
    while waiting:
        try:
            frame = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield _Timed(waiting.popleft(), frame)


def _is_cover(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _head(file: Path | BinaryIO) -> bytes:
    """Return the first bytes, or nothing where they cannot be read."""
    try:
        if isinstance(file, Path):
            with file.open("rb") as opened:
                return opened.read(512)
        file.seek(0)
        return file.read(512)
    except (OSError, ValueError):
        return b""


def _not_opened(name: str, file: Path | BinaryIO, error: Exception) -> DataError:
    """Return the error of a file that FFmpeg refuses, with the reason where its beginning tells."""
    if isinstance(error, OSError):
        return DataError(f"{name}: cannot be read ({error.strerror}); correct the name or its permissions")
    head = _head(file)
    if not head:
        why = "empty; restore it from a copy"
    elif head.startswith(b"version https://git-lfs"):
        why = "a pointer of Git LFS, not the video; run git lfs pull"
    elif head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        why = "a web page, not a video; download it again"
    elif head[4:8] == b"ftyp":
        why = "an MP4 cut short: its index (moov) is missing; restore it from a copy"
    else:
        why = f"not a video ({getattr(error, 'strerror', None) or error}); restore it from a copy, or leave it out"
    return DataError(f"{name}: {why}")
