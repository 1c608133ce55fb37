from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prelar_ray.errors import DataError
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.storage.study_folder import StudyFolder
from prelar_ray.study.plan import PlannedRun, changed, plan_runs
from prelar_ray.study.proposals import Proposals
from prelar_ray.study.sweep import Sweep

pytest.importorskip("optuna")

SPACE = {"behaviour.horizon": {"integers": (3, 15)}, "loss.action_kl_weight": {"log_uniform": (0.01, 1.0)}}


def new_study(path: Path, sweep: Sweep) -> tuple[list[PlannedRun], StudyFolder]:
    runs, folder = plan_runs(sweep, path), StudyFolder.open(path / "study", "study", resume=False)
    folder.write_plan(b"name: study", [run.entry for run in runs], "study", [run.name for run in runs])
    return runs, folder


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    finetune = {"methods": ("dreamerv2",), "tasks": ("prelar/point-reach",), "seeds": (0, 1), "space": SPACE}
    return Sweep.model_validate(
        {"name": "study", "preset": "tiny", "finetune": finetune, "search": {"kind": "optuna", "samples": 12}}
    )


@pytest.fixture
def study(sweep: Sweep, tmp_path: Path) -> tuple[list[PlannedRun], StudyFolder]:
    return new_study(tmp_path, sweep)


@pytest.fixture(scope="module")
def uninterrupted(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The values that a study gets which nothing disturbs."""
    return search(sweep, *new_study(tmp_path_factory.mktemp("uninterrupted"), sweep))


def finish(folder: StudyFolder, run: PlannedRun, episode_return: float) -> None:
    folder.set_labels(run.entry)
    made = RunFolder.create(folder.run_path(run.name), "", run.phase)
    made.update(status="finished", summary={"return": episode_return})


def test_values_are_chosen_when_a_run_starts_and_shared_by_its_seeds(
    sweep: Sweep, study: tuple[list[PlannedRun], StudyFolder]
) -> None:
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


def search(
    sweep: Sweep, runs: list[PlannedRun], folder: StudyFolder, start: int = 0, stop: int | None = None
) -> list[dict[str, Any]]:
    """Values of runs, one after the other, of which those with a horizon of 14 are the best."""
    propose, values = Proposals(sweep, runs, folder), []
    for run in runs[start:stop]:
        chosen = propose(run)
        values.append(dict(chosen.labels))
        finish(folder, chosen, -abs(chosen.config.behaviour.horizon - 14) + 0.1 * run.seed)
    return values


def test_proposals_follow_what_earlier_runs_came_to(uninterrupted: list[dict[str, Any]]) -> None:
    horizons = [values["behaviour.horizon"] for values in uninterrupted[::2]]
    assert sum(horizons[-2:]) > sum(horizons[:2]) or min(horizons[-2:]) >= 12, horizons


def killed(folder: StudyFolder) -> None:
    """Leave what a kill within a write to the journal leaves."""
    with folder.proposals.open("ab") as journal:
        journal.write(b'{"op_code": 6, "trial')
    Path(f"{folder.proposals}.lock").touch()


def older(folder: StudyFolder) -> None:
    """Leave what a study has that began before there was a journal."""
    folder.proposals.unlink()


@pytest.mark.timeout(20)  # Optuna would wait 30 s for a lock that was left behind
@pytest.mark.parametrize("cut", [killed, older])
def test_a_resumed_study_gets_the_values_that_an_uninterrupted_one_has(
    sweep: Sweep,
    study: tuple[list[PlannedRun], StudyFolder],
    uninterrupted: list[dict[str, Any]],
    cut: Callable[[StudyFolder], None],
) -> None:
    values = search(sweep, *study, stop=13)  # between the seeds of a slot, after Optuna's random first ten
    cut(study[1])
    assert values + search(sweep, *study, start=13) == uninterrupted


def test_values_that_a_kill_kept_out_of_the_plan_are_found_in_the_journal(
    sweep: Sweep, study: tuple[list[PlannedRun], StudyFolder]
) -> None:
    runs, folder = study
    first = Proposals(sweep, runs, folder)(runs[0])
    finish(folder, changed(runs[2], {"behaviour.horizon": 5, "loss.action_kl_weight": 0.1}), 1.0)
    again = Proposals(sweep, runs, folder)
    assert again(runs[0]).labels == again(runs[1]).labels == first.labels


def test_a_changed_space_keeps_the_results_that_lie_in_it(
    sweep: Sweep, study: tuple[list[PlannedRun], StudyFolder]
) -> None:
    def of(choices: tuple[int, ...]) -> Sweep:
        assert sweep.finetune is not None
        finetune = sweep.finetune.model_copy(update={"space": {"behaviour.horizon": choices}})
        return sweep.model_copy(update={"finetune": finetune})

    runs, folder = study
    search(of((13, 4)), runs, folder, stop=12)
    search(of((14, 13)), runs, folder, start=12)  # Optuna knows no other choices within one study of its own
    first, second = (study.trials for study in studies(folder))
    horizons = {folder.labels(run.name)["behaviour.horizon"] for run in runs[:12]}
    assert horizons == {4, 13}
    assert len(first) == 11, "the last was told to nobody, for nobody asked after it"
    assert {trial.params["behaviour.horizon"] for trial in second} == {13, 14}
    kept = [run.name for run in runs[:12] if folder.labels(run.name)["behaviour.horizon"] == 13]
    assert [trial.user_attrs["run"] for trial in second][: len(kept)] == kept


def studies(folder: StudyFolder) -> list[Any]:
    import optuna

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder.proposals)))
    return [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]


def test_a_damaged_journal_is_named(sweep: Sweep, study: tuple[list[PlannedRun], StudyFolder]) -> None:
    search(sweep, *study, stop=2)
    lines = study[1].proposals.read_bytes().splitlines(keepends=True)
    study[1].proposals.write_bytes(b"".join([*lines[:3], b"damaged\n", *lines[3:]]))
    with pytest.raises(DataError, match=r"optuna\.jsonl: line 4 is not a JSON object"):
        Proposals(sweep, *study)
