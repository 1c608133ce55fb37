from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from prelar_ray.commands import record
from prelar_ray.video.store import VideoStore

Refused = Callable[..., str]


def test_videos_are_recorded_and_the_next_command_is_named(
    settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "videos"
    assert record.main(["--config", settings, "--out", str(out), "--policy", "random", "seed=3"]) == 0
    store = VideoStore(out)
    assert (len(store), store.total_frames) == (3, 24)
    assert (store.attributes["policy"], store.attributes["seed"]) == ("random", 3)
    said = capsys.readouterr().err
    assert "record: 24/24 frames, done" in said
    assert f"recorded 3 episodes, 24 frames in {out}" in said
    assert f"next: prelar-ray pretrain --videos {out} --out runs/pretrain --config {settings} seed=3\n" in said


def test_the_next_command_has_the_same_settings_and_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my videos"
    chosen = ["--preset", "tiny", "--method", "apv", "record.episodes_per_task=1", "record.frames_per_episode=3"]
    assert record.main([*chosen, "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "recorded 1 episode, 3 frames" in said
    following = said.split("next: prelar-ray ")[1].splitlines()[0]
    assert shlex.split(following) == [
        *("pretrain", "--videos", str(out), "--out", "runs/pretrain", "--preset", "tiny", "--method", "apv")
    ]


def test_a_folder_that_holds_something_is_refused(settings: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    error = refused(record.main, "--config", settings, "--out", tmp_path, code=2)
    assert str(tmp_path) in error
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_without_a_folder_nothing_is_recorded(settings: str, refused: Refused) -> None:
    assert "--out DIR is required" in refused(record.main, "--config", settings, code=2)


def test_an_environment_that_renders_nothing_is_refused_without_a_remedy_that_recording_refuses(
    settings: str, tmp_path: Path, refused: Refused
) -> None:
    line = ["--config", settings, "--out", tmp_path / "videos", "record.tasks=[gym/tests.envs.own_world:Blind-v0]"]
    error = refused(record.main, *line, code=2)
    assert "its constructor takes no render_mode; have it take one and render rgb_array\n" in error
    assert "image_size" not in error


def test_a_policy_that_does_not_exist_is_refused(settings: str, tmp_path: Path, refused: Refused) -> None:
    error = refused(record.main, "--config", settings, "--policy", "expret", "--out", tmp_path / "v", code=2)
    assert error.splitlines()[-1].startswith("error: record.policy=expret: must be one of expert, random, mixed")
    assert not (tmp_path / "v").exists()
