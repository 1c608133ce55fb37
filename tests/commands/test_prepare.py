"""`prelar-ray prepare`, as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from prelar_ray.commands import prepare
from prelar_ray.sources.npz import Npz
from prelar_ray.sources.registry import formats
from prelar_ray.video.actions import ActionFile, actions_path
from prelar_ray.video.store import VideoStore
from tests.sources.clips import shades, told, write

Refused = Callable[..., str]


def main(arguments: Sequence[str]) -> int:
    """Call the command in this process alone."""
    return prepare.main([*arguments, "--workers", "1"])


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two classes of videos at 10 frames a second."""
    folder = tmp_path / "videos"
    for name, count in (("push/a.mp4", 12), ("push/b.mkv", 8), ("pull/c.mp4", 10)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, shades(count), rate=10)
    return folder


def test_a_folder_of_videos_becomes_a_store_and_the_next_commands_are_named(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(videos), "--out", str(out)]) == 0
    store = VideoStore(out)
    assert list(zip(store.sources, store.lengths.tolist(), strict=True)) == [("pull", 10), ("push", 12), ("push", 8)]
    assert [told(frame) for frame in store.frames(1)] == list(range(12))
    said = capsys.readouterr().err
    assert f"{videos}: video files; 3 episodes; about 30 frames; size 96 x 64; rate 10" in said
    assert "prepare: 3/3 items, done" in said
    assert f"prepared 3 episodes, 30 frames in {out}" in said
    assert f"next: prelar-ray data show {out} --to {out}.png\n" in said
    assert f"prelar-ray pretrain --videos {out} --out runs/pretrain\n" in said


def test_what_would_be_done_is_said_without_doing_it(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(videos), "--out", str(out), "--dry-run", "--every", "2"]) == 0
    said = capsys.readouterr().err
    assert "to store: about 15 frames" in said
    assert "expected time: 0:00:01 on one core" in said
    assert not out.exists()


def test_options_reach_frames(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chosen = ["--fps", "5", "--start", "0.2", "--min-frames", "4", "--max-frames", "5", "--name", "mine"]
    assert main([str(videos / "push"), "--out", str(out), *chosen]) == 0
    store = VideoStore(out)
    assert store.sources == ["mine"]  # of b.mkv three frames are left, which are too few
    assert [told(frame) for frame in store.frames(0)] == [2, 4, 6, 8, 10]
    assert store.attributes["preparation"]["selection"] == {"fps": 5.0, "min_frames": 4, "max_frames": 5}


def test_globs_are_taken_in_the_order_of_their_names(videos: Path, tmp_path: Path) -> None:
    assert main([str(videos / "*" / "*.mp4"), "--out", str(tmp_path / "out")]) == 0
    assert VideoStore(tmp_path / "out").sources == ["c", "a"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "SOURCE is empty; name a file or folder"),
        ("~nobody-of-this-name/videos", "~nobody-of-this-name/videos: no such file or folder"),
        ("a" * 300, "cannot be opened (File name too long)"),
    ],
)
def test_a_source_that_cannot_be_a_path_is_refused(source: str, message: str, tmp_path: Path, refused: Refused) -> None:
    assert message in refused(main, source, "--out", str(tmp_path / "out"), code=2)


def test_what_cannot_be_read_is_named_and_left_out_on_demand(
    videos: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    (videos / "pull" / "d.mp4").write_text("<html>not found</html>")
    arguments = [str(videos)]
    error = refused(main, *arguments, "--out", tmp_path / "strict", code=2)
    assert f"error: {videos / 'pull' / 'd.mp4'}" in error or "error: pull/d.mp4" in error
    assert error.rstrip().endswith("with --skip-bad leaves out what cannot be read")
    assert main([*arguments, "--out", str(tmp_path / "out"), "--skip-bad"]) == 3
    store = VideoStore(tmp_path / "out")
    assert len(store) == 3
    assert len(store.attributes["left_out"]) == 1
    assert "left out: 1 file, named above" in capsys.readouterr().err


def test_an_interrupt_before_the_store_begins_names_nothing_to_resume(
    videos: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "survey", interrupted)
    assert refused(main, str(videos), "--out", str(tmp_path / "out"), code=130) == "interrupted\n"


def test_a_preview_shows_episodes_from_all_over_the_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "many").mkdir()
    for number in range(15):
        write(tmp_path / "many" / f"{number:02d}.mp4", shades(2), rate=10)
    drawn: list[str] = []
    monkeypatch.setattr(prepare, "draw_sheet", lambda path, names, frames: drawn.extend(names))
    assert main([str(tmp_path / "many"), "--preview", str(tmp_path / "sheet.png")]) == 0
    assert [name.partition(".")[0] for name in drawn] == ["00", "01", "03", "05", "07", "09", "11", "13"]


def test_an_interrupted_preparation_resumes(
    videos: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(videos), "--shard-frames", "10", "--out", str(tmp_path / "out")]
    append = prepare.prepare.__globals__["VideoWriter"].append

    def interrupted(writer: object, frames: np.ndarray, source: str) -> None:
        append(writer, frames, source)
        if source == "push":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("prelar_ray.video.writer.VideoWriter.append", interrupted)
        said = refused(main, *arguments, code=130)
    assert "prelar-ray prepare" in said
    assert "--resume" in said
    error = refused(main, *arguments, code=2)
    assert "--resume" in error
    assert main([*arguments, "--resume"]) == 0
    assert VideoStore(tmp_path / "out").lengths.tolist() == [10, 12, 8]


def test_true_actions_lie_beside_the_store(tmp_path: Path) -> None:
    image = np.stack(shades(6, 64, 64))
    actions = np.arange(12, dtype=np.float32).reshape(6, 2)
    (tmp_path / "episodes").mkdir()
    np.savez(tmp_path / "episodes" / "20260101T000000-abc-5.npz", image=image, action=actions)
    out = tmp_path / "out"
    assert main([str(tmp_path / "episodes"), "--out", str(out), "--actions"]) == 0
    found = ActionFile(actions_path(out)).of(VideoStore(out).frames(0))
    assert found is not None
    np.testing.assert_array_equal(found[1:], actions[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out", "out"], "error: nowhere: no such file or folder"),
        (["no*thing", "--out", "out"], "error: no*thing: matches nothing"),
        (["VIDEOS"], "--out DIR is required"),
        (["VIDEOS", "--out", "out", "--format", "mp5"], "error: --format mp5: unknown; known are auto, "),
        (["VIDEOS", "--out", "out", "--camera", "front"], "camera"),
        (["VIDEOS", "--out", "out", "--crop", "200:10:0:0"], "--crop 200:10:0:0 reaches beyond pictures of 96 x 64"),
        (["VIDEOS", "--out", "out", "--crop", "1:2:3"], "'1:2:3': expected WIDTH:HEIGHT:X:Y"),
        (["VIDEOS", "--out", "out", "--start", "1:x"], "'1:x': expected seconds, or hours:minutes:seconds"),
        (["VIDEOS", "--out", "out", "--fps", "0"], "'0': expected a number above 0"),
        (["VIDEOS", "--out", "out", "--actions", "--every", "2"], "--actions with --fps or --every"),
        (["VIDEOS", "--out", "out", "--min-frames", "99"], "no episode has 99 frames or more; see --min-frames"),
        (["VIDEOS", "--out", "out", "--resume"], "out"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    message: str,
    videos: Path,
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(videos) if argument == "VIDEOS" else argument for argument in arguments]
    assert message in refused(main, *given, code=2).splitlines()[-1]


def test_a_reader_of_another_package_is_known_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "theirs"

        @staticmethod
        def load() -> type[Npz]:
            return Npz

    monkeypatch.setattr(
        "prelar_ray.sources.registry.entry_points", lambda group: [Point] * (group == "prelar_ray.sources")
    )
    assert formats()["theirs"] is Npz


def test_the_store_says_where_it_came_from(videos: Path, tmp_path: Path) -> None:
    assert main([str(videos), "--out", str(tmp_path / "out"), "--fit", "pad"]) == 0
    attributes = json.loads((tmp_path / "out" / "manifest.json").read_text())["attributes"]
    assert attributes["sources"] == [str(videos)]
    assert attributes["formats"] == ["video"]
    assert attributes["preparation"]["geometry"] == {"fit": "pad"}


def test_frames_are_prepared_at_the_size_that_is_asked_for(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(videos), "--dry-run", "--image-size", "128"]) == 0
    assert "0.0015 GB uncompressed" in capsys.readouterr().err
    assert main([str(videos), "--out", str(out), "--image-size", "128", "--fit", "pad"]) == 0
    assert f"pretrain --videos {out} --out runs/pretrain env.image_size=128\n" in capsys.readouterr().err
    store = VideoStore(out)
    assert store.image_size == 128
    assert store.frames(0).shape == (10, 128, 128, 3)
    assert store.attributes["preparation"]["geometry"] == {"fit": "pad", "image_size": 128}
