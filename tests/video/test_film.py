from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from prelar_ray.errors import DataError, UsageError
from prelar_ray.types import Frames
from prelar_ray.video.film import write_film


def episode(length: int, shade: int) -> Frames:
    """A bright square that moves to the right on a background of its own shade."""
    frames = np.full((length, 64, 64, 3), shade, dtype=np.uint8)
    for t in range(length):
        frames[t, 20:40, 3 * t : 3 * t + 16] = (250, 10, 10)
    return frames


EPISODES = [episode(7, 30), episode(4, 120)]
FRAMES = np.concatenate(EPISODES)


def read_mp4(path: Path) -> Frames:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_gif(path: Path) -> Frames:
    with Image.open(path) as image:
        found = []
        for index in range(image.n_frames):
            image.seek(index)
            found.append(np.asarray(image.convert("RGB")))
        return np.stack(found)


@pytest.mark.parametrize(("name", "read"), [("film.mp4", read_mp4), ("film.gif", read_gif), ("FILM.GIF", read_gif)])
def test_a_film_shows_all_frames_of_all_episodes_enlarged(tmp_path: Path, name: str, read: object) -> None:
    path = tmp_path / "new" / name
    write_film(path, EPISODES)
    shown = read(path)  # type: ignore[operator]
    assert shown.shape == (11, 256, 256, 3)
    small = shown[:, 2::4, 2::4].astype(int)  # pixels in the middle of the enlarged ones
    assert np.abs(small - FRAMES).mean() < 8  # mp4 halves the resolution of colours
    per_frame = np.abs(small[:, None].mean(axis=-1) - FRAMES.mean(axis=-1)).mean(axis=(-1, -2))
    assert per_frame.argmin(axis=1).tolist() == list(range(11))  # in order


def test_an_mp4_has_the_asked_rate_and_pixels_that_browsers_play(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", EPISODES, frames_per_second=20)
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 20
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"


def test_a_gif_lasts_as_long_as_its_frames_also_when_they_do_not_change(tmp_path: Path) -> None:
    write_film(tmp_path / "film.gif", [np.zeros((10, 64, 64, 3), dtype=np.uint8), EPISODES[0]], frames_per_second=10)
    with Image.open(tmp_path / "film.gif") as image:
        durations = []
        for index in range(image.n_frames):
            image.seek(index)
            durations.append(image.info["duration"])
        assert sum(durations) == 17 * 100
        assert image.info["loop"] == 0


@pytest.mark.parametrize("name", ["film.avi", "film"])
def test_another_kind_of_film_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name}: films are written as \.mp4 or \.gif; choose one of these"):
        write_film(tmp_path / name, EPISODES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_a_film_that_cannot_be_written_is_one_message_with_the_path(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=rf"{name}: cannot write: .*choose another folder"):
        write_film(tmp_path / name, EPISODES)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=rf"{name}: cannot write"):
        write_film(tmp_path / "file" / name, EPISODES)
