"""Reading studies: a plan, and runs in any state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prelar_ray.errors import DataError
from prelar_ray.reporting.studies import is_study, read_runs, read_study
from prelar_ray.reporting.trials import RETURN, SUCCESS
from prelar_ray.storage.files import append_json_line
from prelar_ray.storage.run_folder import RunFolder

Planned = Callable[..., dict[str, Any]]
MakeStudy = Callable[..., Path]
Run = Callable[..., RunFolder]
TASK = "prelar/point-reach"


def test_a_finished_run_has_its_scores_settings_and_protocol(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, finish: Run
) -> None:
    run = planned("prelar", TASK, 3, labels={"loss.action_kl_weight": 0.1})
    study = make_study(tmp_path / "study", [run])
    finish(study, run, [0.0, 0.2, 0.6])
    assert is_study(study)
    read = read_study(study)
    (trial,) = read.trials
    assert read.text == "seeds: [0, 1]\n"
    assert (trial.name, trial.source, trial.method, trial.task, trial.seed) == (run["name"], "study", "prelar", TASK, 3)
    assert (trial.status, trial.reason, trial.is_complete, trial.last_step) == ("finished", "", True, 3000)
    assert [points.tolist() for points in trial.scores[SUCCESS]] == [[1000, 2000, 3000], [0.0, 0.2, 0.6]]
    assert trial.scores[RETURN][1].tolist() == [0.0, 20.0, 60.0]
    assert trial.labels == {"loss.action_kl_weight": 0.1}
    assert trial.protocol["evaluation.episodes"] == "10"
    assert trial.protocol["success rule"] == "any step"
    assert trial.config["seed"] == 3


def test_runs_in_every_other_state_are_listed_with_the_reason(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, begin: Run, finish: Run
) -> None:
    runs = [planned("prelar", TASK, seed) for seed in range(7)]
    study = make_study(tmp_path / "study", runs)
    begin(study, runs[1])
    begin(study, runs[2]).update(status="failed", error="NonFiniteError: loss/total is nan")
    finish(study, runs[3])
    (study / "runs" / runs[3]["name"] / "run.json").write_text('{"phase": "fine')
    finish(study, runs[4])
    with (study / "runs" / runs[4]["name"] / "evaluations.jsonl").open("ab") as file:
        file.write(b'{"env_steps": 4000}\n')
    (study / "runs" / runs[5]["name"]).mkdir(parents=True)
    finish(study, runs[6], [])
    states = [(trial.status, trial.reason) for trial in read_study(study).trials]
    assert states[0] == ("not begun", "")
    assert states[1] == ("running", "")
    assert states[2] == ("failed", "NonFiniteError: loss/total is nan")
    assert states[3][0] == states[4][0] == "damaged"
    assert "run.json: cannot be read as JSON" in states[3][1]
    assert "evaluations.jsonl: an evaluation lacks 'update'" in states[4][1]
    assert states[5] == ("not begun", "its folder holds no run.json")
    assert states[6] == ("finished", "it has no evaluation")
    assert not any(trial.is_complete for trial in read_study(study).trials)


def test_an_evaluation_that_was_cut_off_by_a_kill_is_left_out(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, finish: Run
) -> None:
    run = planned("prelar", TASK, 0)
    study = make_study(tmp_path / "study", [run])
    path = finish(study, run, [0.0, 0.2]).evaluations_path
    path.write_bytes(path.read_bytes()[:-20])
    (trial,) = read_study(study).trials
    assert trial.scores[SUCCESS][0].tolist() == [1000]


@pytest.mark.parametrize("change", [{"returns": []}, {"successes": [True]}, {"returns": [1e999]}])
def test_an_evaluation_that_cannot_be_averaged_is_named(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, finish: Run, change: dict[str, Any]
) -> None:
    run = planned("prelar", TASK, 0)
    study = make_study(tmp_path / "study", [run])
    folder = finish(study, run)
    row = json.loads(folder.evaluations_path.read_text().splitlines()[0])
    with folder.evaluations_path.open("a") as file:
        file.write(json.dumps({**row, "env_steps": 4000, **change}) + "\n")
    (trial,) = read_study(study).trials
    assert trial.status == "damaged"
    assert "the evaluation at 4000 environment steps has" in trial.reason


def test_evaluations_count_at_the_step_at_which_they_were_due(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, begin: Run, evaluation: Callable[..., dict[str, Any]]
) -> None:
    """Collectors in parallel pass a step by a few, a different number in every run; the end is evaluated twice."""
    run = planned("prelar", TASK, 0)
    study = make_study(tmp_path / "study", [run])
    folder = begin(study, run, "finetune.env_steps=2500")
    for number, env_steps in enumerate((1003, 2017, 2500, 2502), start=1):
        append_json_line(folder.evaluations_path, {**evaluation(number, env_steps), "returns": [float(number)] * 4})
    (trial,) = read_study(study).trials
    assert [points.tolist() for points in trial.scores[RETURN]] == [[1000, 2000, 2500], [1.0, 2.0, 4.0]]


@pytest.mark.parametrize("content", [None, "", "seed: [", "- 1"])
def test_a_run_whose_configuration_cannot_be_read_is_damaged(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, finish: Run, content: str | None
) -> None:
    """Nobody knows then when its evaluations were due, nor by which protocol they were made."""
    run = planned("prelar", TASK, 0)
    study = make_study(tmp_path / "study", [run])
    path = finish(study, run).config_path
    path.unlink()
    if content is not None:
        path.write_text(content)
    (trial,) = read_study(study).trials
    assert (trial.status, trial.scores) == ("damaged", {})
    assert "config.yaml: " in trial.reason


def test_tasks_without_success_have_returns_alone(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, finish: Run
) -> None:
    run = planned("prelar", "dmc/walker-walk", 0)
    study = make_study(tmp_path / "study", [run])
    finish(study, run)
    assert list(read_study(study).trials[0].scores) == [RETURN]


def test_a_run_that_waits_for_a_failed_pretraining_says_so(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, begin: Run
) -> None:
    first = planned("prelar", None, 0, phase="pretrain", name="pretrain/ab")
    second = planned("prelar", TASK, 0, init="pretrain/ab")
    study = make_study(tmp_path / "study", [first, second])
    begin(study, first).update(status="failed", error="DataError: no videos")
    trials = read_study(study).trials
    assert (trials[0].phase, trials[0].reason) == ("pretrain", "DataError: no videos")
    assert trials[1].reason == "it starts from pretrain/ab, which is failed"


def test_what_the_study_knows_of_failed_and_stopped_runs_is_told(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, begin: Run, finish: Run
) -> None:
    """One never came to a folder, one went with its node, one finished on a later try, one was stopped, one failed."""
    runs = [planned("prelar", TASK, seed) for seed in range(5)]
    study = make_study(tmp_path / "study", runs)
    begin(study, runs[1])
    finish(study, runs[2])
    finish(study, runs[3], [0.1]).update(status="interrupted")
    begin(study, runs[4]).update(status="failed", error="NonFiniteError: loss")
    failures = {runs[i]["name"]: reason for i, reason in ((0, "ImportError: no"), (1, "node died"), (2, "x"), (4, "y"))}
    (study / "failures.json").write_text(json.dumps(failures))
    (study / "stopped.json").write_text(json.dumps({runs[3]["name"]: True}))
    trials = read_study(study).trials
    assert [(trial.status, trial.reason) for trial in trials] == [
        ("failed", "ImportError: no"),
        ("failed", "node died"),
        ("finished", ""),
        ("stopped", "its scheduler stopped it early"),
        ("failed", "NonFiniteError: loss"),
    ]
    assert trials[3].scores
    assert not trials[3].is_complete


@pytest.mark.parametrize("content", ["{", "[]"])
def test_half_written_failures_are_refused(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, content: str
) -> None:
    study = make_study(tmp_path / "study", [planned("prelar", TASK, 0)])
    (study / "failures.json").write_text(content)
    with pytest.raises(DataError, match="failures.json: "):
        read_study(study)


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (None, "plan.json: cannot be read"),
        ("", "plan.json: half-written or damaged"),
        ('{"runs": [{"name": "a", "pha', "plan.json: half-written or damaged"),
        ("[]", "plan.json: half-written or damaged"),
        ("{}", "half-written or damaged (runs: Field required)"),
        ('{"runs": []}', "plan.json: plans no run"),
        ('{"runs": [{"name": "a", "phase": "record", "method": "x"}]}', "damaged (runs.0.phase: "),
        ('{"runs": [{"name": "a", "phase": "finetune", "method": "x", "seed": "?"}]}', "damaged (runs.0.seed: "),
        ('{"runs": [{"name": "", "phase": "finetune", "method": "x"}]}', "damaged (runs.0.name: "),
    ],
)
def test_a_plan_that_cannot_be_used_is_refused(
    tmp_path: Path, make_study: MakeStudy, plan: str | None, reason: str
) -> None:
    study = make_study(tmp_path / "study")
    (study / "plan.json").unlink()
    if plan is not None:
        (study / "plan.json").write_text(plan)
    with pytest.raises(DataError) as error:
        read_study(study)
    assert str(error.value).startswith(f"{study}/plan.json: ")
    assert reason in str(error.value)


def test_run_folders_of_no_study_are_read_by_what_they_say_themselves(
    tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    make_run(tmp_path / "pretrain", "pretrain")
    make_run(tmp_path / "seed5", "finetune", seed=5)
    RunFolder.create(tmp_path / "record", "", "record")
    pretrain, finetune = read_runs([tmp_path])
    assert (pretrain.phase, pretrain.scores) == ("pretrain", {})
    assert (finetune.name, finetune.method, finetune.seed, finetune.task) == ("seed5", "prelar", 5, TASK)
    assert finetune.scores[SUCCESS][1].tolist() == [0.25, 0.25]
    with pytest.raises(DataError, match="not a run folder"):
        read_runs([tmp_path / "record" / "checkpoints"])
