"""Reading run folders and studies in any state: what is damaged is named, the rest is used."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelar_ray.errors import DataError
from prelar_ray.reporting.read import find_runs, read_run, read_scores_of, read_study
from prelar_ray.reporting.scores import RETURN, SUCCESS
from prelar_ray.storage.files import append_json_line
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.storage.study_folder import is_study

MakeRun = Callable[..., RunFolder]
Planned = Callable[..., dict[str, Any]]
MakeStudy = Callable[..., Path]
Run = Callable[..., RunFolder]
TASK = "prelar/point-reach"


def test_a_finished_run_is_read_completely(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, "finetune", seed=3)
    run = read_run(tmp_path)
    assert run.missing == {}
    assert (run.phase, run.updates, run.env_steps, run.config["seed"]) == ("finetune", 30, 3000, 3)
    assert run.intervals[RETURN][0].estimate == 2.5
    assert (run.intervals[SUCCESS][0].estimate, run.intervals[SUCCESS][0].count) == (0.25, 4)
    assert run.prediction is not None
    assert run.prediction.context == 2


def test_a_series_leaves_out_what_was_not_finite(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, "finetune")
    x, y = read_run(tmp_path).series("loss/total", "env_steps")
    assert x.tolist() == [1000.0, 3000.0]
    assert y.tolist() == [100.0, pytest.approx(33.3333, abs=1e-3)]


def test_numbers_beyond_the_range_of_floats_are_left_out(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path, "pretrain")
    with folder.metrics_path.open("a") as file:
        file.write('{"time": 1, "update": 40, "env_steps": 0, "loss/total": 1e999}\n')
    assert read_run(tmp_path).series("loss/total", "update")[0].tolist() == [10.0, 30.0]


def test_only_metrics_with_values_are_named_in_documented_order(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, "pretrain")
    run = read_run(tmp_path)
    assert run.names("loss") == ["loss/total"]
    assert run.names("behaviour") == []


def test_a_recording_is_not_blamed_for_having_no_metrics(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "seed: 0\n", "record")
    assert read_run(tmp_path).missing == {}


def test_a_baseline_is_not_blamed_for_predicting_no_frames(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "method: rllib/PPO\n", "finetune").start()
    run = read_run(tmp_path)
    assert run.missing.keys() == {"metrics", "evaluations"}
    assert (run.method, run.kind and run.kind.own_networks) == ("rllib/PPO", False)


def test_a_run_that_ended_at_once_says_what_is_missing(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "seed: 0\n", "finetune")
    assert read_run(tmp_path).missing.keys() == {"metrics", "evaluations", "prediction"}


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("run.json", "record"),
        ("config.yaml", "config"),
        ("metrics.jsonl", "metrics"),
        ("evaluations.jsonl", "evaluations"),
        ("frames/prediction.npz", "prediction"),
    ],
)
def test_damage_costs_the_damaged_part_only(tmp_path: Path, file: str, part: str, make_run: MakeRun) -> None:
    make_run(tmp_path / "finetune", "finetune")
    (tmp_path / "finetune" / file).write_bytes(b"{broken\n\x00\n")
    run = read_run(tmp_path / "finetune")
    assert run.missing.keys() == {part}
    assert file in run.missing[part]
    assert run.phase == "finetune"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"returns": []}, "evaluations.jsonl: the evaluation at 400 environment steps has 0 returns and 4 successes"),
        ({"returns": "abc"}, "malformed"),
        ({"env_steps": None}, "malformed"),
        ({"returns": [None]}, "malformed"),
        ({"successes": []}, "has 4 returns and 0 successes, expected as many of each, all finite; delete that line"),
        ({"success_rule": "none"}, "has 4 returns and 4 successes, expected returns alone, all finite; delete that"),
    ],
)
def test_a_malformed_evaluation_is_named(
    tmp_path: Path, change: dict[str, object], reason: str, make_run: MakeRun, evaluation: Callable[..., dict[str, Any]]
) -> None:
    folder = make_run(tmp_path, "finetune")
    append_json_line(folder.evaluations_path, evaluation(40, 400) | change)
    assert reason in read_run(tmp_path).missing["evaluations"]


def test_an_evaluation_without_a_key_is_named(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path, "finetune")
    append_json_line(folder.evaluations_path, {"update": 1})
    assert "an evaluation lacks 'env_steps'" in read_run(tmp_path).missing["evaluations"]


def test_frames_of_a_wrong_form_are_named(
    tmp_path: Path, make_run: MakeRun, save_prediction: Callable[..., None]
) -> None:
    folder = make_run(tmp_path, "pretrain")
    good = np.zeros((4, 64, 64, 3), np.uint8)
    folder.save_frames("prediction", true=good, reconstructed=good, open_loop=good.astype(np.float32), context=2)
    assert "open_loop: frames are float32" in read_run(tmp_path).missing["prediction"]
    folder.save_frames("prediction", true=good, reconstructed=good, open_loop=good[:3], context=2)
    assert "4 true, 4 reconstructed, 3 open-loop" in read_run(tmp_path).missing["prediction"]
    save_prediction(folder, length=4, context=5)
    assert "context is 5, expected 1 to 4" in read_run(tmp_path).missing["prediction"]


def test_a_pickle_in_the_frames_is_refused(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path, "pretrain")
    np.savez(folder.frames / "prediction.npz", true=np.array([{}], dtype=object), context=1)
    assert "prediction" in read_run(tmp_path).missing


def test_runs_are_found_in_a_folder_of_runs_once_each(tmp_path: Path) -> None:
    for phase in ("pretrain", "finetune"):
        RunFolder.create(tmp_path / "demo" / phase, "", phase)
    (tmp_path / "demo" / "videos").mkdir()
    demo = tmp_path / "demo"
    assert find_runs([demo, demo / "pretrain"]) == [demo / "finetune", demo / "pretrain"]


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_what_holds_no_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f"{name}: not a run folder"):
        find_runs([tmp_path / name])


def test_a_finished_run_has_its_scores_settings_and_protocol(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, finish: Run
) -> None:
    run = planned("prelar", TASK, 3, labels={"loss.action_kl_weight": 0.1})
    study = make_study(tmp_path / "study", [run])
    finish(study, run, [0.0, 0.2, 0.6])
    assert is_study(study)
    read = read_study(study)
    (found,) = read.runs
    assert read.text == "seeds: [0, 1]\n"
    assert (found.name, found.source, found.method, found.task, found.seed) == (run["name"], "study", "prelar", TASK, 3)
    assert (found.status, found.reason, found.is_complete, found.last_step) == ("finished", "", True, 3000)
    assert found.scores[SUCCESS].to_dict() == {1000: 0.0, 2000: 0.2, 3000: 0.6}
    assert found.scores[RETURN].tolist() == [0.0, 20.0, 60.0]
    assert found.labels == {"loss.action_kl_weight": 0.1}
    assert found.protocol["evaluation.episodes"] == "10"
    assert found.protocol["success rule"] == "any step"
    assert found.config["seed"] == 3


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
    states = [(found.status, found.reason) for found in read_study(study).runs]
    assert states[0] == ("not begun", "")
    assert states[1] == ("running", "")
    assert states[2] == ("failed", "NonFiniteError: loss/total is nan")
    assert states[3][0] == states[4][0] == "damaged"
    assert "run.json: cannot be read as JSON" in states[3][1]
    assert "evaluations.jsonl: an evaluation lacks 'update'" in states[4][1]
    assert states[5] == ("not begun", "its folder holds no run.json")
    assert states[6] == ("finished", "it has no evaluation")
    assert not any(found.is_complete for found in read_study(study).runs)


def test_an_evaluation_that_was_cut_off_by_a_kill_is_left_out(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, finish: Run
) -> None:
    run = planned("prelar", TASK, 0)
    study = make_study(tmp_path / "study", [run])
    path = finish(study, run, [0.0, 0.2]).evaluations_path
    path.write_bytes(path.read_bytes()[:-20])
    (found,) = read_study(study).runs
    assert found.scores.index.tolist() == [1000]


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
    (found,) = read_study(study).runs
    assert found.status == "damaged"
    assert "the evaluation at 4000 environment steps has" in found.reason


def test_evaluations_count_at_the_step_at_which_they_were_due(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, begin: Run, evaluation: Callable[..., dict[str, Any]]
) -> None:
    """Collectors in parallel pass a step by a few, a different number in every run; the end is evaluated twice."""
    run = planned("prelar", TASK, 0)
    study = make_study(tmp_path / "study", [run])
    folder = begin(study, run, "finetune.env_steps=2500")
    for number, env_steps in enumerate((1003, 2017, 2500, 2502), start=1):
        append_json_line(folder.evaluations_path, {**evaluation(number, env_steps), "returns": [float(number)] * 4})
    (found,) = read_study(study).runs
    assert found.scores[RETURN].to_dict() == {1000: 1.0, 2000: 2.0, 2500: 4.0}


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
    (found,) = read_study(study).runs
    assert (found.status, found.scores.empty) == ("damaged", True)
    assert "config.yaml: " in found.reason


def test_tasks_without_success_have_returns_alone(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, finish: Run
) -> None:
    run = planned("prelar", "dmc/walker-walk", 0)
    study = make_study(tmp_path / "study", [run])
    finish(study, run)
    assert list(read_study(study).runs[0].scores) == [RETURN]


def test_a_run_that_waits_for_a_failed_pretraining_says_so(
    tmp_path: Path, planned: Planned, make_study: MakeStudy, begin: Run
) -> None:
    first = planned("prelar", None, 0, phase="pretrain", name="pretrain/ab")
    second = planned("prelar", TASK, 0, init="pretrain/ab")
    study = make_study(tmp_path / "study", [first, second])
    begin(study, first).update(status="failed", error="DataError: no videos")
    found = read_study(study).runs
    assert (found[0].phase, found[0].reason) == ("pretrain", "DataError: no videos")
    assert found[1].reason == "it starts from pretrain/ab, which is failed"


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
    found = read_study(study).runs
    assert [(found.status, found.reason) for found in found] == [
        ("failed", "ImportError: no"),
        ("failed", "node died"),
        ("finished", ""),
        ("stopped", "its scheduler stopped it early"),
        ("failed", "NonFiniteError: loss"),
    ]
    assert not found[3].scores.empty
    assert not found[3].is_complete


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
    pretrain, finetune = read_scores_of([tmp_path])
    assert (pretrain.phase, pretrain.scores.empty) == ("pretrain", True)
    assert (finetune.name, finetune.method, finetune.seed, finetune.task) == ("seed5", "prelar", 5, TASK)
    assert finetune.scores[SUCCESS].tolist() == [0.25, 0.25]
    with pytest.raises(DataError, match="not a run folder"):
        read_scores_of([tmp_path / "record" / "checkpoints"])


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
@pytest.mark.parametrize("keep", [0, 1])
def test_lines_that_the_run_had_when_it_ended_are_missing_in_the_report(
    tmp_path: Path, make_run: MakeRun, name: str, keep: int
) -> None:
    make_run(tmp_path, "finetune")
    path = tmp_path / name
    written = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(written[:keep]))
    missing = read_run(tmp_path).missing
    assert list(missing) == [path.stem]
    assert f"{name}: {len(written) - keep} line" in missing[path.stem]


def test_frames_that_unpack_to_more_than_any_prediction_are_not_unpacked(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path, "pretrain")
    with zipfile.ZipFile(folder.frames / "prediction.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}.npy", bytes(2**26))
    assert (folder.frames / "prediction.npz").stat().st_size < 2**20
    assert "unpacks to more than 256 MiB" in read_run(tmp_path).missing["prediction"]
