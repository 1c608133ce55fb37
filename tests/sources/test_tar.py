from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.source import Choice
from prelar_ray.sources.tar import Tar
from tests.sources.reading import POINTER, plain, read


def picture(level: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(plain([level], 48, 32)[0]).save(out, "png")
    return out.getvalue()


def film(levels: Sequence[int], format: str = "mp4") -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=format) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.options = {"qp": "0"}
        for pixels in plain(list(levels), 64, 96):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()


def archive(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")])
def test_videos_are_decoded_without_a_file_on_disk(tmp_path: Path, name: str, mode: str):
    path = archive(tmp_path / name, {"x/one.mp4": film([10, 20, 30]), "./two.mp4": film([40, 50])}, mode)
    before = sorted(tmp_path.rglob("*"))
    found = read(Tar, path)
    assert [[round(level, -1) for level in episode.levels] for episode in found] == [[10, 20, 30], [40, 50]]
    assert found[0].times == pytest.approx([0.0, 0.1, 0.2])
    assert found[0].name == "a"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["clip_{:03d}.png", "clip.{:03d}.png", "clip/{:d}.png", "a.b/clip-{:d}.png", "clip{:d}.png"]
)
def test_numbered_pictures_are_one_video_in_the_order_of_their_numbers(tmp_path: Path, name: str):
    path = archive(tmp_path / "a.tar", {name.format(number): picture(number) for number in (10, 9, 8, 11)})
    (found,) = read(Tar, path)
    assert (found.levels, found.times, found.notes) == ([8, 9, 10, 11], [None] * 4, [])


def test_pictures_of_several_videos_are_told_apart_by_their_keys(tmp_path: Path):
    members = {"a_1_0.png": 1, "a_1_1.png": 2, "a_2_0.png": 3, "b_0.png": 4}
    path = archive(tmp_path / "a.tar", {name: picture(level) for name, level in members.items()})
    assert [episode.levels for episode in read(Tar, path)] == [[1, 2], [3], [4]]


def test_numbers_that_are_missing_are_noted(tmp_path: Path):
    path = archive(tmp_path / "a.tar", {f"a_{number}.png": picture(1) for number in (1, 2, 5, 7)})
    (found,) = read(Tar, path)
    assert found.notes == [f"{path}: a_1.png: no pictures 3 to 4, 6 to 6"]


def test_a_text_beside_a_sample_is_its_name(tmp_path: Path):
    members = {
        "a.json": b'{"caption": "push it", "size": 3}',
        "a_0.png": picture(1),
        "b_0.png": picture(2),
        "b.cls": b"12\n",
        "c_0.png": picture(3),
        "c.txt": b"open\nthe door",
        "c.json": b"{",
        "d_0.png": picture(4),
    }
    found = read(Tar, archive(tmp_path / "set.tar", members))
    assert [episode.name for episode in found] == ["push it", "12", "open the door", "set"]
    assert {episode.name for episode in read(Tar, tmp_path, name="mine")} == {"mine"}


def test_members_that_are_no_files_or_hidden_are_passed_over(tmp_path: Path):
    path = archive(tmp_path / "a.tar", {"._a.mp4": b"x", "dir/.DS_Store": b"x", "a_0.png": picture(1), "a.npy": b"x"})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("b.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert [episode.levels for episode in read(Tar, path)] == [[1]]


def test_a_name_that_leaves_the_folder_is_only_a_name(tmp_path: Path):
    path = archive(tmp_path / "a.tar", {"../../escape_0.png": picture(1), "/abs_0.png": picture(2)})
    assert [episode.levels for episode in read(Tar, path)] == [[1], [2]]
    assert not (tmp_path.parent / "escape_0.png").exists()


def test_a_sample_whose_members_are_apart_is_an_error(tmp_path: Path):
    path = archive(tmp_path / "a.tar", {"a_0.png": picture(1), "b_0.png": picture(2), "a_1.png": picture(3)})
    with pytest.raises(DataError, match=r"a\.tar: a_1\.png: not next to the others of a; .*--sort=name"):
        read(Tar, path)


def test_pictures_without_a_key_are_refused(tmp_path: Path):
    path = archive(tmp_path / "a.tar", {"000017.jpg": picture(1)})
    with pytest.raises(DataError, match="a number alone does not say of which video"):
        Tar(path, Choice())


def test_a_folder_of_archives_is_read_in_order_up_to_the_limit(tmp_path: Path):
    archive(tmp_path / "s-10.tar", {"a_0.png": picture(5)})
    archive(tmp_path / "s-2.tar", {"a_0.png": picture(1), "b_0.png": picture(2)})
    archive(tmp_path / "s-3.tar", {"a_0.png": picture(3), "b_0.png": picture(4)})
    assert [episode.levels[0] for episode in read(Tar, tmp_path)] == [1, 2, 3, 4, 5]
    assert [episode.levels[0] for episode in read(Tar, tmp_path, limit=3)] == [1, 2, 3]
    assert Tar(tmp_path, Choice(limit=3)).describe().episodes == 3


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_an_archive_that_is_cut_is_named_and_what_came_before_is_good(tmp_path: Path, name: str, mode: str):
    rng = np.random.default_rng(0)
    noise = {f"{letter}_0.png": picture(1) + rng.bytes(9000) for letter in "abc"}
    path = archive(tmp_path / name, noise, mode)
    path.write_bytes(path.read_bytes()[:25000])
    source = Tar(path, Choice())
    episodes = source.read(source.items()[0])
    assert len(list(next(episodes).pictures)) == 1
    with pytest.raises(DataError, match=rf"{name}: not a readable archive, or cut short"):
        list(episodes)


def test_a_damaged_header_is_not_the_end(tmp_path: Path):
    path = archive(tmp_path / "a.tar", {"a_0.png": picture(1), "b_0.png": picture(2)})
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        place = tar.getmember("b_0.png").offset
    content[place + 100] ^= 0x7F
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged header"):
        read(Tar, path)


def test_a_broken_video_is_named_with_its_archive(tmp_path: Path):
    path = archive(tmp_path / "a.tar", {"one.mp4": b"not a video"})
    with pytest.raises(DataError, match=r"a\.tar: one\.mp4"):
        read(Tar, path)


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "empty"), (b"text" * 200, "not a readable archive"), (POINTER, "git lfs pull")]
)
def test_other_content_is_named(tmp_path: Path, content: bytes, says: str):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.tar: .*{says}"):
        Tar(tmp_path, Choice())


def test_archives_without_videos_and_empty_folders_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"no \.tar or \.tar\.gz files"):
        Tar(tmp_path, Choice())
    archive(tmp_path / "a.tar", {"readme.md": b"x", "a.txt": b"y"})
    with pytest.raises(DataError, match=r"a\.tar: no videos <key>\.mp4"):
        Tar(tmp_path, Choice())


def test_the_description_opens_one_sample(tmp_path: Path):
    path = archive(tmp_path / "a.tar", {"one.mp4": film([10, 20])})
    found = Tar(path, Choice()).describe()
    assert (found.format, found.items, found.episodes, found.frames) == ("tar", 1, None, None)
    assert (found.sizes, found.rates, found.bytes) == (("96 x 64",), ("10",), path.stat().st_size)
    archive(path, {"one_0.png": picture(1)})
    assert Tar(path, Choice()).describe().sizes == ("32 x 48",)


def test_archives_are_recognised_by_their_names(tmp_path: Path):
    assert not Tar.recognise(tmp_path)
    path = archive(tmp_path / "a.tar.gz", {"one_0.png": picture(1)}, "w:gz")
    assert Tar.recognise(path)
    assert Tar.recognise(tmp_path)
    (tmp_path / "b.mp4").touch()
    (tmp_path / "c.mp4").touch()
    assert not Tar.recognise(tmp_path)


@pytest.mark.parametrize(
    ("choice", "option"),
    [({"camera": "a"}, "--camera"), ({"episodes": ((0, 1),)}, "--episodes"), ({"actions": True}, "--actions")],
)
def test_choices_that_it_does_not_have_are_refused(tmp_path: Path, choice: dict[str, Any], option: str):
    with pytest.raises(ConfigError, match=f"{option}: .* read as tar"):
        Tar(tmp_path, Choice(**choice))
