from __future__ import annotations

import json
from pathlib import Path

import pytest

from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.plan import PlannedRun, changed, plan_runs
from prelar_ray.study.proposals import Proposals
from prelar_ray.study.sweep import Sweep

SPACE = {"behaviour.horizon": {"integers": (3, 15)}, "loss.action_kl_weight": {"log_uniform": (0.01, 1.0)}}


@pytest.fixture
def sweep() -> Sweep:
    finetune = {"methods": ("dreamerv2",), "tasks": ("prelar/point-reach",), "seeds": (0, 1), "space": SPACE}
    return Sweep.model_validate(
        {"name": "study", "preset": "tiny", "finetune": finetune, "search": {"kind": "optuna", "samples": 12}}
    )


@pytest.fixture
def study(sweep: Sweep, tmp_path: Path) -> tuple[list[PlannedRun], StudyFolder]:
    runs = plan_runs(sweep, tmp_path)
    folder = StudyFolder.open(tmp_path / "study", "study", resume=False)
    folder.write_plan(b"name: study", [run.entry for run in runs], "study", [run.name for run in runs])
    return runs, folder


def finish(folder: StudyFolder, run: PlannedRun, episode_return: float) -> None:
    folder.set_labels(run.entry)
    made = RunFolder.create(folder.run_path(run.name), "", run.phase)
    made.update(status="finished", summary={"return": episode_return})


def test_values_are_chosen_when_a_run_begins_and_shared_by_its_seeds(
    sweep: Sweep, study: tuple[list[PlannedRun], StudyFolder]
) -> None:
    pytest.importorskip("optuna")
    runs, folder = study
    propose = Proposals(sweep, runs, folder)
    first = propose(runs[0])
    assert 3 <= first.config.behaviour.horizon <= 15
    assert 0.01 <= first.config.loss.action_kl_weight <= 1
    folder.set_labels(first.entry)
    second = propose(runs[1])
    assert (second.seed, second.labels) == (1, first.labels)
    other = propose(runs[2])
    assert other.labels != first.labels
    recorded = json.loads((folder.path / "plan.json").read_text())["runs"][0]["labels"]
    assert recorded == first.labels


def test_values_that_were_proposed_stay_when_a_study_goes_on(
    study: tuple[list[PlannedRun], StudyFolder],
) -> None:
    runs, folder = study
    folder.set_labels(changed(runs[0], {"behaviour.horizon": 7}).entry)
    folder.write_plan(b"name: study", [run.entry for run in runs], "study", [run.name for run in runs])
    assert folder.labels(runs[0].name) == {"behaviour.horizon": 7}
    assert folder.labels(runs[1].name) == {}


def test_proposals_follow_what_earlier_runs_came_to(sweep: Sweep, study: tuple[list[PlannedRun], StudyFolder]) -> None:
    pytest.importorskip("optuna")
    runs, folder = study
    chosen: list[int] = []
    for run in [run for run in runs if run.seed == 0]:
        begun = Proposals(sweep, runs, folder)(run)  # a new one each time, as after a resume
        chosen.append(begun.config.behaviour.horizon)
        finish(folder, begun, -abs(begun.config.behaviour.horizon - 14))
    assert sum(chosen[-2:]) > sum(chosen[:2]) or min(chosen[-2:]) >= 12, chosen
