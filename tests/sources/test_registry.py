from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.registry import formats, open_source
from prelar_ray.sources.source import Choice
from prelar_ray.video.writer import VideoWriter
from tests.sources.reading import plain
from tests.sources.test_lerobot import images, v2, v3
from tests.sources.test_npz import NONE, chunk, dreamer, save
from tests.sources.test_rlds import dataset, steps
from tests.sources.test_tar import archive, film, picture


def beside_a_calibration(folder: Path) -> None:
    """Videos, and an array that is none."""
    for number in range(2):
        (folder / f"{number}.mp4").write_bytes(film([10]))
    save(folder / "calibration.npz", image=plain([1]))


MAKE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "LeRobot v2": ("lerobot", v2),
    "LeRobot v3": ("lerobot", v3),
    "LeRobot images": ("lerobot", images),
    "RLDS": ("rlds", lambda folder: dataset(folder, [steps([1])])),
    "RLDS below its version": ("rlds", lambda folder: dataset(folder / "0.1.0", [steps([1])])),
    "tar": ("tar", lambda folder: archive(folder / "a.tar", {"a_0.png": picture(1)})),
    "DreamerV2": ("npz", lambda folder: dreamer(folder, 1, [1])),
    "DreamerV3": ("npz", lambda folder: chunk(folder, 1, "a", NONE, [1], [0])),
    "numbered pictures": ("frames", lambda folder: [(folder / f"{n}.png").write_bytes(picture(n)) for n in (1, 2)]),
    "videos": ("video", lambda folder: (folder / "a.mp4").write_bytes(film([1]))),
    "videos beside an npz": ("video", beside_a_calibration),
}


@pytest.mark.parametrize("kind", MAKE)
def test_each_format_is_found_by_its_own_reader(tmp_path: Path, kind: str):
    format, make = MAKE[kind]
    make(tmp_path)
    source = open_source(tmp_path, Choice())
    assert source.format == format
    items = source.items()
    assert len({item.key for item in items}) == len(items) > 0
    assert all(file.exists() for item in items for file in item.files)
    assert pickle.loads(pickle.dumps(source)).items() == items


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "videos" / "locked").mkdir(parents=True)
    scandir = os.scandir

    def denied(path: Path):
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"locked: cannot be listed \(Permission denied\); correct its permissions"):
        open_source(tmp_path / "videos", Choice())


def test_a_video_store_is_no_source(tmp_path: Path):
    with VideoWriter(tmp_path / "store", {}, 10) as writer:
        writer.append(plain([1, 2]), "test")
    with pytest.raises(DataError, match="store: a video store already; `prelar-ray data merge` joins stores"):
        open_source(tmp_path / "store", Choice())


def test_what_no_reader_recognises_lists_the_formats(tmp_path: Path):
    with pytest.raises(DataError, match=f"none of the known formats .*{', '.join(formats())}"):
        open_source(tmp_path, Choice())
    with pytest.raises(ConfigError, match="--format mpeg: unknown; known are auto, "):
        open_source(tmp_path, Choice(), "mpeg")
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(tmp_path / "missing", Choice())


@pytest.mark.parametrize("format", ["lerobot", "rlds", "tar", "npz"])
def test_a_reader_that_is_named_says_what_is_missing(tmp_path: Path, format: str):
    (tmp_path / "readme.txt").write_text("nothing")
    for path in (tmp_path, tmp_path / "readme.txt"):
        with pytest.raises(DataError, match=str(tmp_path)) as error:
            open_source(path, Choice(), format)
        assert "\n" not in str(error.value)
