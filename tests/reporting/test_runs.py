"""Reading run folders: what is damaged is named, the rest is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelar_ray.errors import DataError
from prelar_ray.reporting.runs import find_runs, load_run
from prelar_ray.storage.files import append_json_line
from prelar_ray.storage.run_folder import RunFolder

MakeRun = Callable[..., RunFolder]


def test_a_finished_run_is_read_completely(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, "finetune", seed=3)
    run = load_run(tmp_path)
    assert run.missing == {}
    assert (run.phase, run.updates, run.env_steps, run.config["seed"]) == ("finetune", 30, 3000, 3)
    first = run.evaluations[0]
    assert (first.returns.estimate, first.success.estimate, first.episodes) == (2.5, 0.25, 4)
    assert run.prediction is not None
    assert run.prediction.context == 2


def test_a_series_leaves_out_what_was_not_finite(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, "finetune")
    x, y = load_run(tmp_path).series("loss/total", "env_steps")
    assert x.tolist() == [1000.0, 3000.0]
    assert y.tolist() == [100.0, pytest.approx(33.3333, abs=1e-3)]


def test_numbers_beyond_the_range_of_floats_are_left_out(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path, "pretrain")
    with folder.metrics_path.open("a") as file:
        file.write('{"time": 1, "update": 40, "env_steps": 0, "loss/total": 1e999}\n')
    assert load_run(tmp_path).series("loss/total", "update")[0].tolist() == [10.0, 30.0]


def test_only_metrics_with_values_are_named_in_documented_order(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, "pretrain")
    run = load_run(tmp_path)
    assert run.names("loss") == ["loss/total"]
    assert run.names("behaviour") == []


def test_a_recording_is_not_blamed_for_having_no_metrics(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "seed: 0\n", "record")
    assert load_run(tmp_path).missing == {}


def test_a_baseline_is_not_blamed_for_predicting_no_frames(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "method: rllib/PPO\n", "finetune").start()
    run = load_run(tmp_path)
    assert run.missing.keys() == {"metrics", "evaluations"}
    assert (run.method, run.is_baseline) == ("rllib/PPO", True)


def test_a_run_that_ended_at_once_says_what_is_missing(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "seed: 0\n", "finetune")
    assert load_run(tmp_path).missing.keys() == {"metrics", "evaluations", "prediction"}


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
    run = load_run(tmp_path / "finetune")
    assert run.missing.keys() == {part}
    assert file in run.missing[part]
    assert run.phase == "finetune"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"returns": []}, "cannot average 0 values"),
        ({"returns": "abc"}, "malformed"),
        ({"env_steps": None}, "malformed"),
        ({"returns": [None]}, "malformed"),
        ({"successes": []}, "no episodes"),
    ],
)
def test_a_malformed_evaluation_is_named(
    tmp_path: Path, change: dict[str, object], reason: str, make_run: MakeRun, evaluation: Callable[..., dict[str, Any]]
) -> None:
    folder = make_run(tmp_path, "finetune")
    append_json_line(folder.evaluations_path, evaluation(40, 400) | change)
    assert reason in load_run(tmp_path).missing["evaluations"]


def test_an_evaluation_without_a_key_is_named(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path, "finetune")
    append_json_line(folder.evaluations_path, {"update": 1})
    assert "an evaluation lacks 'env_steps'" in load_run(tmp_path).missing["evaluations"]


def test_frames_of_a_wrong_form_are_named(
    tmp_path: Path, make_run: MakeRun, save_prediction: Callable[..., None]
) -> None:
    folder = make_run(tmp_path, "pretrain")
    good = np.zeros((4, 64, 64, 3), np.uint8)
    folder.save_frames("prediction", true=good, reconstructed=good, open_loop=good.astype(np.float32), context=2)
    assert "open_loop: frames are float32" in load_run(tmp_path).missing["prediction"]
    folder.save_frames("prediction", true=good, reconstructed=good, open_loop=good[:3], context=2)
    assert "4 true, 4 reconstructed, 3 open-loop" in load_run(tmp_path).missing["prediction"]
    save_prediction(folder, length=4, context=5)
    assert "context is 5, expected 1 to 4" in load_run(tmp_path).missing["prediction"]


def test_a_pickle_in_the_frames_is_refused(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path, "pretrain")
    np.savez(folder.frames / "prediction.npz", true=np.array([{}], dtype=object), context=1)
    assert "prediction" in load_run(tmp_path).missing


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
