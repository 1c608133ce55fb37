from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prelar_ray.commands import data
from prelar_ray.errors import DataError, UsageError
from prelar_ray.video.store import VideoStore, VideoWriter


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Twelve episodes of 20 to 31 frames, whose colour is their number, in four shards."""
    with VideoWriter(tmp_path / "videos", {"camera": "corner"}, 70, "lz4") as writer:
        for number in range(12):
            writer.append(np.full((20 + number, 64, 64, 3), 20 * number, np.uint8), f"task-{number % 2}")
    return tmp_path / "videos"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = data.main([str(word) for word in words])
    return code, capsys.readouterr().out


def value(out: str, name: str) -> str:
    """What ``info`` says behind a name."""
    (line,) = (line for line in out.splitlines() if line.startswith(f"{name} "))
    return line.removeprefix(name).strip()


def test_info_counts_what_is_too_short_for_frames_some_steps_apart(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = run(capsys, "info", store, "--segment-length", 13, "--stride", 2)
    assert value(out, "too short") == "5 episodes of fewer than 25 frames"


def test_info_says_what_a_store_holds(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "info", store)
    assert code == 0
    expected = {
        "episodes": "12, complete",
        "frames": "306",
        "compression": "lz4",
        "lengths": "20 to 31 frames, median 25.5",
        "too short": "5 episodes of fewer than 25 frames (clips of preset paper; see --segment-length)",
        "source task-0": "6 episodes",
        "attribute camera": "corner",
        "checksum": VideoStore(store).checksum,
    }
    assert {name: value(out, name) for name in expected} == expected
    assert "20 - 20" in out
    assert run(capsys, "info", store, "--segment-length", 31)[1].count("11 episodes of fewer than 31 frames") == 1


def test_info_reads_an_address_and_a_store_in_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with VideoWriter(tmp_path / "videos", {}, 5) as writer:
        writer.append(np.zeros((5, 64, 64, 3), np.uint8), "a")
        assert "1, not complete" in run(capsys, "info", f"file://{tmp_path}/videos")[1]


def test_verify_names_every_damaged_shard_and_tells_it_by_its_exit_code(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = run(capsys, "verify", store)
    assert (code, out) == (0, f"{store}: 4 shards, 0 damaged\n")
    content = bytearray((store / "shard-00001.arrow").read_bytes())
    content[-600] ^= 1
    (store / "shard-00001.arrow").write_bytes(content)
    (store / "shard-00002.arrow").unlink()
    code, out = run(capsys, "verify", store)
    assert code == 3
    first, second, last = out.splitlines()
    assert first.startswith(f"{store}/shard-00001.arrow: the checksum differs")
    assert second.startswith(f"{store}/shard-00002.arrow: missing")
    assert last == f"{store}: 4 shards, 2 damaged"


def test_a_sheet_shows_first_middle_and_last_frames(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    assert run(capsys, "show", store, "--to", sheet, "--count", 12)[1] == f"{sheet}\n"
    pixels = np.asarray(Image.open(sheet))
    height, width = pixels.shape[:2]
    for number in range(12):
        left, top = number % 4 * 396 + 8, number // 4 * 150 + 8 + 14
        episode = pixels[top : top + 128, left : left + 388]
        for frame in (episode[:, :128], episode[:, 130:258], episode[:, 260:]):
            assert (frame == 20 * number).all()
        assert (episode[:, 128:130] == 255).all()
    assert (height, width) == (3 * 150 + 8, 4 * 396 + 8)


def test_what_is_intact_of_a_damaged_store_is_shown(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    (copy / "verified.json").unlink(missing_ok=True)
    shard = sorted(copy.glob("shard-*.arrow"))[0]
    shard.write_bytes(shard.read_bytes()[:-9])
    assert run(capsys, "show", copy, "--to", tmp_path / "sheet.png")[1] == f"{tmp_path / 'sheet.png'}\n"
    assert f"{shard.name} is left out" in caplog.text


def test_a_film_shows_random_clips(tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "show", store, "--to", tmp_path / "film.gif", "--count", 3, "--segment-length", 30)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.size == (256, 256)
        assert film.n_frames >= 1
    with pytest.raises(DataError, match="a clip needs 99"):
        run(capsys, "show", store, "--to", tmp_path / "film.gif", "--segment-length", 99)
    with pytest.raises(UsageError, match=r"film\.avi: must end in \.png"):
        run(capsys, "show", store, "--to", tmp_path / "film.avi")


def test_stores_are_split_and_merged(tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, both = (tmp_path / name for name in ("a", "b", "both"))
    out = run(capsys, "split", store, "--out", a, b, "--share", "0.75")[1]
    assert out == f"{a}: 9 episodes\n{b}: 3 episodes\n"
    run(capsys, "merge", a, b, "--out", both)
    assert sorted(VideoStore(both).lengths.tolist()) == list(range(20, 32))
    run(capsys, "split", both, "--out", tmp_path / "even", tmp_path / "odd", "--sources", "task-0")
    assert set(VideoStore(tmp_path / "even").sources) == {"task-0"}
    assert set(VideoStore(tmp_path / "odd").sources) == {"task-1"}


@pytest.mark.parametrize("words", [[], ["look"], ["split", "videos", "--out", "a", "b", "--share", "1.5"]])
def test_what_cannot_be_understood_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        data.main(words)
    assert "error: " in capsys.readouterr().err
