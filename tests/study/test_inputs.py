from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from prelar_ray.errors import ConfigError, DataError, UsageError
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study import inputs as study_inputs
from prelar_ray.study.inputs import check_inputs, record_videos
from prelar_ray.study.plan import plan_runs, video_stores
from prelar_ray.study.sweep import Sweep
from prelar_ray.video.actions import actions_path
from prelar_ray.video.recorder import record
from prelar_ray.video.store import VideoStore, is_complete

TASK = "prelar/point-reach"


def study(**parts: Any) -> Sweep:
    return Sweep.model_validate({"name": "study", "preset": "tiny", **parts})


def recorded(tmp_path: Path, folder: StudyFolder) -> Path:
    settings = {"record.tasks": (TASK,), "record.policy": "random", "record.episodes_per_task": 2}
    settings |= {"record.workers": 1}
    sweep = study(pretrain={"videos": {"a": settings}})
    record_videos(sweep, folder)
    return Path(video_stores(sweep, folder.path)["a"])


def test_a_recording_that_was_cut_off_is_made_again_and_a_whole_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)

    def cut_off(*args: Any) -> None:
        frames = 0

        def count(new: int) -> None:
            nonlocal frames
            frames += new
            if frames > 40:
                raise KeyboardInterrupt

        record(args[0], args[1], count)

    with monkeypatch.context() as patch:
        patch.setattr(study_inputs, "record", cut_off)
        with pytest.raises(KeyboardInterrupt):
            recorded(tmp_path, folder)
    (store,) = (folder.path / "videos").glob("a-*/")
    assert not is_complete(store)
    with caplog.at_level(logging.WARNING):
        assert recorded(tmp_path, folder) == store
    assert "its recording was cut off; recording it again" in caplog.text
    assert is_complete(store)
    assert len(VideoStore(store)) == 2
    assert actions_path(store).exists()
    written = (store / "manifest.json").stat().st_mtime_ns
    recorded(tmp_path, folder)
    assert (store / "manifest.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"loggers": ("wandb",)}, r"^loggers=\[wandb\] needs .*pip install 'prelar-ray\[wandb\]'$"),
        ({"search": {"kind": "optuna"}}, r"^search\.kind=optuna needs .*pip install 'prelar-ray\[optuna\]'$"),
    ],
)
def test_a_package_that_is_not_installed_is_named_before_anything_starts(
    parts: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    finetune = {"methods": ("dreamerv2",), "tasks": (TASK,), "space": {"behaviour.horizon": (3, 5)}}
    with pytest.raises(UsageError, match=said):
        check_inputs(study(finetune=finetune, **parts), [])


def test_videos_at_an_address_are_left_to_the_trainings(tmp_path: Path) -> None:
    sweep = study(pretrain={"videos": {"a": "s3://bucket/videos"}})
    check_inputs(sweep, [])
    assert video_stores(sweep, tmp_path) == {"a": "s3://bucket/videos"}
    with pytest.raises(ConfigError, match=r"pretrain\.videos\.a: absent holds no video store"):
        check_inputs(study(pretrain={"videos": {"a": "absent"}}), [])


def test_videos_of_another_size_than_the_study_s_are_named_before_anything_starts(tmp_path: Path, videos: Path) -> None:
    sweep = study(settings={"env.image_size": 128}, pretrain={"videos": {"a": str(videos)}, "methods": ("prelar",)})
    with pytest.raises(DataError, match=r"holds frames of 64 x 64 pixels, and env\.image_size=128"):
        check_inputs(sweep, plan_runs(sweep, tmp_path))
    small = study(pretrain={"videos": {"a": str(videos)}, "methods": ("prelar",)})
    check_inputs(small, plan_runs(small, tmp_path))
