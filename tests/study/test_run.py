from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import TrialScheduler

from prelar_ray.errors import ConfigError
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study import run as study_run
from prelar_ray.study.plan import video_stores
from prelar_ray.study.run import CHECKPOINT_SECONDS, check_inputs, record_videos
from prelar_ray.study.sweep import Sweep
from prelar_ray.video.actions import actions_path
from prelar_ray.video.recorder import record
from prelar_ray.video.store import VideoStore, is_complete

TASK = "prelar/point-reach"


def study(**parts: Any) -> Sweep:
    return Sweep.model_validate({"name": "study", "preset": "tiny", **parts})


def recorded(tmp_path: Path, folder: StudyFolder) -> Path:
    settings = {"record.tasks": (TASK,), "record.policy": "random", "record.episodes_per_task": 2}
    sweep = study(pretrain={"videos": {"a": settings}})
    record_videos(sweep, folder)
    return video_stores(sweep, folder.path)["a"]


def test_a_recording_that_was_cut_off_is_made_anew_and_a_whole_one_stays(
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
        patch.setattr(study_run, "record", cut_off)
        with pytest.raises(KeyboardInterrupt):
            recorded(tmp_path, folder)
    (store,) = (folder.path / "videos").glob("a-*/")
    assert not is_complete(store)
    with caplog.at_level(logging.WARNING):
        assert recorded(tmp_path, folder) == store
    assert "its recording was cut off; recording it anew" in caplog.text
    assert is_complete(store)
    assert len(VideoStore(store)) == 2
    assert actions_path(store).exists()
    written = (store / "manifest.json").stat().st_mtime_ns
    recorded(tmp_path, folder)
    assert (store / "manifest.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"loggers": ("wandb",)}, r"^loggers=wandb: not installed; pip install wandb"),
        ({"search": {"kind": "optuna"}}, r"^search\.kind=optuna: not installed; pip install optuna"),
    ],
)
def test_a_package_that_is_not_installed_is_named_before_anything_starts(
    parts: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    finetune = {"methods": ("dreamerv2",), "tasks": (TASK,), "space": {"behaviour.horizon": (3, 5)}}
    with pytest.raises(ConfigError, match=said):
        check_inputs(study(finetune=finetune, **parts), [])


class Tried:
    """A trial, as far as a scheduler looks at it."""

    def __init__(self, name: str) -> None:
        self.trial_id, self.config = name, {"name": name}


class Controller:
    """What a scheduler sees of Ray Tune, with a run that waits."""

    def get_live_trials(self) -> list[Any]:
        return [SimpleNamespace(status="PENDING")]


def scheduler(kind: str, folder: StudyFolder) -> TrialScheduler:
    finetune = {"methods": ("dreamerv2",), "tasks": (TASK,)}
    asked = {"kind": kind, "grace_env_steps": 100, "metric": "score"}
    return study_run._scheduler(study(finetune=finetune, scheduler=asked), folder)


@pytest.mark.parametrize("kind", ["fifo", "asha", "median"])
def test_stopped_runs_get_time_for_their_checkpoints(tmp_path: Path, kind: str) -> None:
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    assert "_actor_force_cleanup_timeout" in TuneController.__init__.__code__.co_names, (
        "Ray Tune calls it otherwise now"
    )
    controller = Controller()
    scheduler(kind, folder).on_trial_add(controller, Tried("a"))  # type: ignore[arg-type]
    assert vars(controller)["_actor_force_cleanup_timeout"] == CHECKPOINT_SECONDS


def test_the_median_rule_stops_the_worst_and_pauses_nobody(tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    rule, controller = scheduler("median", folder), Controller()
    trials: list[Any] = [Tried(f"run-{n}") for n in range(5)]

    def tell(trial: Any, steps: int, score: float) -> str:
        return rule.on_trial_result(controller, trial, {"env_steps": steps, "score": score})  # type: ignore[arg-type]

    for trial in trials:
        rule.on_trial_add(controller, trial)  # type: ignore[arg-type]
    assert [tell(trial, 200, 5.0) for trial in trials[:4]] == [TrialScheduler.CONTINUE] * 4
    rule.on_trial_complete(controller, trials[3], {"done": True})  # type: ignore[arg-type]
    assert tell(trials[4], 200, 1.0) == TrialScheduler.STOP
    assert json.loads((folder.path / "stopped.json").read_text()) == {"run-4": True}
