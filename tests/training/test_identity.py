"""A resume continues the experiment that the run is, or says what it changes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from prelar_ray.config import RunConfig, load_config, to_yaml
from prelar_ray.errors import CheckpointError
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.finetuning import finetune
from prelar_ray.training.local_backend import LocalBackend
from prelar_ray.training.pretraining import pretrain
from prelar_ray.video.recorder import record
from tests.training.runs import Run, crash

pytestmark = pytest.mark.usefixtures("short_episodes")


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def resumed(minute_config: RunConfig, tmp_path: Path) -> Any:
    """Resume the run of :func:`run` with other settings, or say no."""

    def resume(*overrides: str, accept: bool = False) -> RunFolder:
        config = load_config(None, None, overrides, base=minute_config)
        folder = RunFolder.create(tmp_path / "run", to_yaml(config), "finetune", resume=True, accept_changes=accept)
        finetune(config, folder, LocalBackend, None, resume=True)
        return folder

    return resume


@pytest.mark.parametrize(
    ("override", "before", "after"),
    [
        ("env.task=prelar/arena-reach", "env.task=prelar/point-reach", "prelar/arena-reach"),
        ("seed=1", "seed=0", "1"),
        ("env.camera=corner2", "env.camera=default", "corner2"),
        ("env.render_quality=fast", "env.render_quality=full", "fast"),
        ("env.action_repeat=5", "env.action_repeat=1", "5"),
    ],
)
def test_what_identifies_an_experiment_is_not_changed_by_a_resume(
    run: Run, resumed: Any, override: str, before: str, after: str
) -> None:
    folder = run("run", "finetune.env_steps=65").path
    files = everything(folder)
    with pytest.raises(CheckpointError) as caught:
        resumed(override)
    assert f"made with {before} (here {after}); this would be another experiment under the same name" in str(
        caught.value
    )
    own, changes = "leave --preset, --config and changed keys out, as --resume reads the run's own", "--accept-changes"
    assert 0 < str(caught.value).find(own) < str(caught.value).find(changes)
    assert everything(folder) == files


def test_another_task_is_said_before_a_shorter_length(run: Run, resumed: Any) -> None:
    run("run")
    with pytest.raises(CheckpointError, match=r"made with env\.task=prelar/point-reach \(here prelar/arena-reach\)"):
        resumed("env.task=prelar/arena-reach", "finetune.env_steps=65")


def test_a_change_that_is_asked_for_is_recorded_and_holds_from_then_on(
    run: Run, resumed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reached = int(run("run", "finetune.env_steps=65").last_checkpoint().name)  # type: ignore[union-attr]
    with caplog.at_level(logging.WARNING):
        folder = resumed("seed=1", "behaviour.discount=0.9", accept=True)
    assert "continues with other settings than it was made with: seed=0 (here 1)" in caplog.text
    (change,) = json.loads((folder.path / "run.json").read_text())["changes"]
    assert change["update"] == reached
    assert change["settings"]["seed"] == [0, 1]
    assert change["settings"]["behaviour.discount"] == [0.99, 0.9]
    assert load_config(None, folder.config_path).seed == 1
    again = resumed("seed=1", "behaviour.discount=0.9")
    assert len(again.info["changes"]) == 1
    with pytest.raises(CheckpointError, match=r"made with seed=1 \(here 0\)"):
        resumed("behaviour.discount=0.9")


def test_a_change_that_was_accepted_and_came_to_no_checkpoint_need_not_be_accepted_again(
    run: Run, resumed: Any, during_update: Any
) -> None:
    run("run", "finetune.env_steps=65")
    during_update(1, crash)
    with pytest.raises(RuntimeError, match="power cut"):
        resumed("seed=1", accept=True)
    during_update(0, crash)
    assert resumed("seed=1").info["status"] == "finished"


def test_other_numbers_are_tuned_without_a_flag_and_recorded_all_the_same(run: Run, resumed: Any) -> None:
    run("run", "finetune.env_steps=65")
    folder = resumed("behaviour.entropy_weight=0.5", "env.timeout=9")
    (change,) = folder.info["changes"]
    assert change["settings"]["behaviour.entropy_weight"] == [1e-4, 0.5]


def test_other_versions_of_packages_are_recorded(run: Run, resumed: Any) -> None:
    folder = run("run", "finetune.env_steps=65")
    now = folder.info["versions"]
    folder.update(versions=now | {"mujoco": "0.1"})
    again = resumed("finetune.env_steps=65")
    (change,) = again.info["changes"]
    assert change["settings"] == {"versions.mujoco": ["0.1", now["mujoco"]]}
    assert again.info["versions"] == now


# Videos


@pytest.fixture
def pretraining(minute_config: RunConfig, tmp_path: Path) -> Any:
    def run(*paths: Path, resume: bool = False, accept: bool = False) -> RunFolder:
        given = f"video.path=[{','.join(map(str, paths))}]"
        updates = 4 if resume else 2
        config = load_config(None, None, [given, f"pretrain.updates={updates}"], base=minute_config)
        folder = RunFolder.create(tmp_path / "run", to_yaml(config), "pretrain", resume, accept_changes=accept)
        pretrain(config, folder, resume)
        return folder

    return run


@pytest.fixture
def other_videos(minute_config: RunConfig, tmp_path: Path) -> Path:
    config = load_config(None, None, ["seed=1", "record.episodes_per_task=2"], base=minute_config)
    record(config, tmp_path / "other", lambda frames: None)
    return tmp_path / "other"


def test_videos_are_known_by_content_wherever_they_lie(pretraining: Any, videos: Path, tmp_path: Path) -> None:
    pretraining(videos)
    (tmp_path / "moved").symlink_to(videos)
    assert pretraining(tmp_path / "moved", resume=True).info["status"] == "finished"


def test_other_videos_under_the_same_path_are_refused(
    pretraining: Any, videos: Path, other_videos: Path, tmp_path: Path
) -> None:
    link = tmp_path / "videos"
    link.symlink_to(videos)
    folder = pretraining(link).path
    files = everything(folder)
    link.unlink()
    link.symlink_to(other_videos)
    said = rf"made with videos={link}, 2 shards of content \w+ \(here {link}, 1 shard of content \w+\); this would be"
    with pytest.raises(CheckpointError, match=said):
        pretraining(link, resume=True)
    two = rf"\(here {videos}, {other_videos}, 2 stores, 3 shards of content .* same name: name the videos of then, or"
    with pytest.raises(CheckpointError, match=two):
        pretraining(videos, other_videos, resume=True)
    assert everything(folder) == files
    (change,) = pretraining(link, resume=True, accept=True).info["changes"]
    before, after = change["settings"]["videos"]
    assert before != after


def test_a_store_that_has_grown_is_the_same_data(pretraining: Any, videos: Path, monkeypatch: Any) -> None:
    from prelar_ray.video import seen

    of = seen.VideoIdentity.of
    with monkeypatch.context() as patch:
        patch.setattr(seen.VideoIdentity, "of", lambda mixture: seen.VideoIdentity([of(mixture).stores[0][:1]]))
        pretraining(videos)
    assert pretraining(videos, resume=True).info["status"] == "finished"
