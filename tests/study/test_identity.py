"""A study is known by the content of what it starts from, however paths are spelt."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prelar_ray.commands import tune
from prelar_ray.config import RunConfig, load_config, to_yaml
from prelar_ray.errors import ConfigError, DataError
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.identity import inputs_of, known_inputs, to_json
from prelar_ray.study.inputs import check_inputs, record_videos
from prelar_ray.study.plan import PlannedRun, plan_runs, video_stores
from prelar_ray.study.sweep import Sweep
from prelar_ray.video.recorder import record

TASK = "prelar/point-reach"
Names = Callable[..., list[str]]


def sweep_of(given: Any = None, **finetune: Any) -> Sweep:
    parts: dict[str, Any] = {"pretrain": {"videos": {"point": given}}} if given is not None else {}
    finetune = {"methods": ("prelar",), "tasks": (TASK,), "seeds": (0,), **finetune}
    return Sweep.model_validate({"name": "study", "preset": "tiny", **parts, "finetune": finetune})


def planned(sweep: Sweep, folder: Path) -> list[PlannedRun]:
    return plan_runs(sweep, folder, {key: one.identity for key, one in inputs_of(sweep, folder).items()})


def begun(sweep: Sweep, folder: Path, status: str = "finished") -> StudyFolder:
    """A study in whose folder every run has this status."""
    study = StudyFolder.open(folder, sweep.name, (folder / "study.yaml").exists())
    inputs = inputs_of(sweep, folder)
    study.write_inputs(to_json(known_inputs(folder), inputs), "auto")
    runs = planned(sweep, folder)
    text = json.dumps({"name": "study", **sweep.model_dump(mode="json", include={"pretrain", "finetune"})})
    study.write_plan(text.encode(), [run.entry for run in runs], sweep.name)
    for run in runs:
        RunFolder.create(study.run_path(run.name), to_yaml(run.config), run.phase).update(status=status)
    return study


def as_before(sweep: Sweep, folder: Path) -> list[PlannedRun]:
    """The runs as a version without a record of inputs named them: by the paths as they were spelt."""
    spelt = {f"videos.{name}": given for name, given in (sweep.pretrain.videos if sweep.pretrain else {}).items()}
    init = sweep.finetune.init if sweep.finetune else {}
    spelt |= {f"init.{method}": str(Path(given).absolute()) for method, given in init.items()}
    return plan_runs(sweep, folder, spelt)


def names(runs: list[PlannedRun]) -> list[str]:
    return [run.name for run in runs]


@pytest.fixture
def store(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the videos at ``videos/point`` of the working directory."""
    shutil.copytree(videos, tmp_path / "videos" / "point")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "videos" / "point"


def test_a_path_is_the_same_however_it_is_spelt_and_wherever_it_leads(store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    shutil.copytree(store, tmp_path / "elsewhere" / "copy")
    spellings = ("videos/point", "videos/point/", "./videos/point", "videos/../videos/point", str(store), "link")
    found = {tuple(names(planned(sweep_of(given), tmp_path / "study"))) for given in (*spellings, "elsewhere/copy")}
    assert len(found) == 1
    gone = {tuple(names(planned(sweep_of(given), tmp_path / "study"))) for given in ("gone", "./gone/", "gone/")}
    assert len(gone) == 1


def test_other_content_under_the_same_path_is_another_study_and_what_had_finished_is_named(
    store: Path, tmp_path: Path, minute_config: RunConfig
) -> None:
    sweep, folder = sweep_of("videos/point"), tmp_path / "study"
    study = begun(sweep, folder)
    before = names(planned(sweep, folder))
    shutil.rmtree(store)
    record(load_config(None, None, ["seed=1"], base=minute_config), store, lambda frames: None)
    now = names(planned(sweep, folder))
    assert not set(before) & set(now)
    assert study.finished_outside(now) == before
    assert study.finished_outside(before) == []


def test_runs_outside_the_plan_are_named_when_a_study_is_resumed(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    begun(sweep_of("videos/point", seeds=(0, 1)), folder)
    text = {"name": "study", "preset": "tiny", "pretrain": {"videos": {"point": "./videos/point/"}}}
    text |= {"finetune": {"methods": ["prelar"], "tasks": [TASK], "seeds": [0]}}
    (tmp_path / "sweep.yaml").write_text(json.dumps(text))

    def stop(*args: Any) -> None:
        raise ConfigError("as far as this test goes")

    monkeypatch.setattr("prelar_ray.study.inputs.record_videos", stop)
    with pytest.raises(ConfigError, match="as far as this"), caplog.at_level(logging.WARNING):
        tune.main(["sweep.yaml", "--out", str(folder), "--resume"])
    assert "study: 1 finished run no longer in its plan" in caplog.text
    assert "/seed-1. The report keeps them" in caplog.text
    assert not (folder / "driver.json").exists()


def test_a_study_whose_pretraining_has_finished_goes_on_without_its_videos(store: Path, tmp_path: Path) -> None:
    sweep, folder = sweep_of("videos/point"), tmp_path / "study"
    study = begun(sweep, folder)
    before = names(planned(sweep, folder))
    shutil.rmtree(store)
    runs = planned(sweep, folder)
    assert names(runs) == before
    check_inputs(sweep, runs, study)
    more = planned(sweep_of("videos/point", seeds=(0, 1)), folder)
    check_inputs(sweep, more, study)
    moved = sweep_of("nowhere/else")
    assert names(planned(moved, folder)) == before
    (pretraining,) = [run for run in runs if run.phase == "pretrain"]
    RunFolder.open(study.run_path(pretraining.name)).update(status="interrupted")
    with pytest.raises(ConfigError, match=r"^pretrain\.videos\.point: videos/point holds no video store"):
        check_inputs(sweep, runs, study)


def test_videos_that_a_study_recorded_are_not_recorded_again_for_runs_that_have_finished(tmp_path: Path) -> None:
    sweep, folder = sweep_of({"record.tasks": (TASK,)}), tmp_path / "study"
    study = begun(sweep, folder)
    record_videos(sweep, study, planned(sweep, folder))
    assert not Path(video_stores(sweep, folder)["point"]).exists()


def test_a_study_of_an_earlier_version_keeps_its_names_while_its_videos_are_the_same(
    store: Path, tmp_path: Path, minute_config: RunConfig
) -> None:
    old, folder = sweep_of("./videos/point/"), tmp_path / "study"
    before = as_before(old, folder)
    study = begun(old, folder)
    (folder / "inputs.json").unlink()
    shutil.rmtree(folder / "runs")
    for run in before:
        RunFolder.create(study.run_path(run.name), to_yaml(run.config), run.phase).update(status="finished")
    for given in ("./videos/point/", "videos/point", str(store)):
        assert names(planned(sweep_of(given), folder)) == names(before)

    study.write_inputs(
        to_json([], inputs_of(old, folder)), "auto"
    )  # as the next resume does: from now on the content tells
    shutil.copytree(store, tmp_path / "copy")
    assert names(planned(sweep_of("copy"), folder)) == names(before)
    (folder / "inputs.json").unlink()

    # From elsewhere: what its pre-training was trained on tells.
    shards = [json.loads(line)["sha256"] for line in (store / "shards.jsonl").read_text().splitlines()]
    checkpoint = study.run_path(before[0].name) / "checkpoints" / "000000005"
    checkpoint.mkdir(parents=True)
    (checkpoint / "meta.json").write_text(json.dumps({"counters": {"shards": {shard: [] for shard in shards}}}))
    store.rename(tmp_path / "moved")
    assert names(planned(sweep_of("moved"), folder)) == names(before)
    assert names(planned(old, folder)) == names(before)  # gone, which its finished runs do not mind
    record(load_config(None, None, ["seed=1"], base=minute_config), store, lambda frames: None)
    assert not set(names(planned(old, folder))) & set(names(before))


def test_a_pretraining_to_start_from_is_known_by_its_tensors(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pretrained, tmp_path / "runs" / "pre")
    folder = tmp_path / "study"
    spellings = ("runs/pre", "./runs/pre/", str(pretrained), "runs/pre/checkpoints/000000005")
    found = {tuple(names(planned(sweep_of(init={"prelar": given}), folder))) for given in spellings}
    assert len(found) == 1
    sweep = sweep_of(init={"prelar": "runs/pre"})
    study = begun(sweep, folder)
    runs = planned(sweep, folder)
    shutil.rmtree(tmp_path / "runs")
    assert names(planned(sweep, folder)) == names(runs)
    check_inputs(sweep, runs, study)  # has finished
    (folder / "inputs.json").unlink()
    assert names(planned(sweep, folder)) == names(as_before(sweep, folder))


@pytest.mark.parametrize("content", ["{", "[1]", '[{"key": "videos.a"}]', "7"])
def test_a_damaged_record_of_inputs_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "inputs.json").write_text(content)
    with pytest.raises(DataError, match=r"inputs\.json: .*restore it from a copy"):
        known_inputs(tmp_path)
