from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from prelar_ray.errors import ConfigError
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.plan import PlannedRun, plan_runs
from prelar_ray.study.queue import RunQueue
from prelar_ray.study.sweep import Sweep
from prelar_ray.study.tune import QueueSearcher

TASK = "prelar/point-reach"


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder.open(tmp_path / "study", "study", resume=False)


def planned(folder: StudyFolder, methods: tuple[str, ...], seeds: tuple[int, ...], **search: Any) -> list[PlannedRun]:
    parts: dict[str, Any] = {"pretrain": {"videos": {"a": "videos"}}} if "prelar" in methods else {}
    parts |= {"finetune": {"methods": methods, "tasks": (TASK,), "seeds": seeds, **search}}
    parts |= {"search": {"kind": "optuna"}} if search else {}
    return plan_runs(Sweep.model_validate({"name": "study", "preset": "tiny", **parts}), folder.path)


def end(folder: StudyFolder, run: PlannedRun, status: str) -> None:
    RunFolder.create(folder.run_path(run.name), "", run.phase).update(status=status)


def test_a_run_is_handed_out_once_what_it_starts_from_has_finished(folder: StudyFolder) -> None:
    pretrain, prelar, dreamer = runs = planned(folder, ("prelar", "dreamerv2"), (0,))
    queue = RunQueue(runs, folder)
    assert queue.next() == pretrain
    assert queue.next() == dreamer, "who waits for nobody goes first"
    assert queue.next() is None
    assert queue.pending == [prelar]
    end(folder, pretrain, "finished")
    queue.ended(pretrain)
    assert queue.next() == prelar
    assert queue.next() is None
    assert not queue.pending


def test_runs_whose_pretraining_failed_are_left_out_and_named(
    folder: StudyFolder, caplog: pytest.LogCaptureFixture
) -> None:
    pretrain, *rest = planned(folder, ("prelar",), (0, 1))
    queue = RunQueue([pretrain, *rest], folder)
    queue.next()
    assert queue.next() is None
    assert queue.pending == rest
    end(folder, pretrain, "failed")
    queue.ended(pretrain)
    assert queue.next() is None
    assert (queue.pending, queue.lost) == ([], rest)
    assert f"{rest[0].name}: left out, for its pre-training {pretrain.name} did not finish" in caplog.text


def test_a_proposal_that_no_run_can_have_leaves_that_run_out(folder: StudyFolder) -> None:
    first, second = planned(folder, ("dreamerv2",), (0, 1), space={"behaviour.horizon": {"integers": (3, 15)}})

    def propose(run: PlannedRun) -> PlannedRun:
        if run is first:
            raise ConfigError("behaviour.horizon=99: too long")
        return run

    folder.write_plan(b"name: study", [first.entry, second.entry], "study")
    assert RunQueue([first, second], folder, propose).next() == second
    assert folder.failures() == {first.name: "behaviour.horizon=99: too long"}


def test_ray_tune_is_told_to_wait_or_that_no_run_is_left(folder: StudyFolder) -> None:
    pretrain, prelar = planned(folder, ("prelar",), (0,))
    searcher = QueueSearcher(RunQueue([pretrain, prelar], folder), lambda run: {"name": run.name})
    assert searcher.suggest("a") == {"name": pretrain.name}
    assert searcher.suggest("b") is None, "one run waits for another"
    end(folder, pretrain, "finished")
    searcher.on_trial_complete("a")
    assert searcher.suggest("b") == {"name": prelar.name}
    assert searcher.suggest("c") == Searcher.FINISHED
