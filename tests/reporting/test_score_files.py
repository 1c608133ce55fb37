"""Tables of scores: read, refused with the place of the mistake, and written so that they read back the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prelar_ray.errors import DataError
from prelar_ray.reporting.score_files import read_scores, write_scores
from prelar_ray.reporting.trials import RETURN, SUCCESS, Trial

MakeTrial = Callable[..., Trial]
HEADER = "method,task,seed,env_step,success_rate\n"


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "data.csv"
    path.write_text(text)
    return path


def test_rows_become_a_trial_per_method_task_and_seed_in_the_order_of_steps(tmp_path: Path) -> None:
    rows = "a,x,0,20,0.5\na,x,0,10,0.25\na,x,1,10,1\nb,x,0,10,0\n"
    first, second, third = read_scores(table(tmp_path, HEADER + rows))
    assert (first.method, first.task, first.seed, first.source) == ("a", "x", 0, "data.csv")
    assert [points.tolist() for points in first.scores[SUCCESS]] == [[10, 20], [0.25, 0.5]]
    assert (second.seed, third.method) == (1, "b")
    assert first.is_complete
    assert first.protocol == {}


def test_a_score_may_be_missing_where_the_other_is_there(tmp_path: Path) -> None:
    text = "method,task,seed,env_step,success_rate,episode_return,note\na,x,0,10,,3.5,hello\na,x,0,20,0.5,4,\n"
    (trial,) = read_scores(table(tmp_path, text))
    assert [points.tolist() for points in trial.scores[SUCCESS]] == [[20], [0.5]]
    assert [points.tolist() for points in trial.scores[RETURN]] == [[10, 20], [3.5, 4.0]]


def test_columns_with_a_dot_tell_runs_apart(tmp_path: Path) -> None:
    text = "method,task,seed,env_step,episode_return,loss.w\na,x,0,10,1,0.1\na,x,0,10,2,1\na,x,0,10,3,\n"
    trials = read_scores(table(tmp_path, text))
    assert [trial.labels for trial in trials] == [{"loss.w": 0.1}, {"loss.w": 1.0}, {}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a table of scores"),
        (HEADER, "holds no scores, only a header"),
        ("method,task,seed\na,x,0\n", "lacks the column env_step, success_rate or episode_return; it has method"),
        ("method,task,seed,env_step,score\na,x,0,1,1\n", "lacks the column success_rate or episode_return"),
        (HEADER + "a,x,zero,10,0.5\n", "conversion error to int64: invalid value 'zero'"),
        (HEADER + "a,x,0,10,half\n", "conversion error to double: invalid value 'half'"),
        (HEADER + "a,x,0,10.5,0.5\n", "invalid value '10.5'"),
        (HEADER + "a,x,0,10\n", "Expected 5 columns, got 4"),
        (HEADER + "a,x,0,10,0.5\na,x,,20,0.5\n", "line 3: seed is empty"),
        (HEADER + ",x,0,10,0.5\n", "line 2: method is empty"),
        (HEADER + "a,x,0,10,\n", "line 2: no score"),
        (HEADER + "a,x,0,10,inf\n", "line 2: success_rate is inf, expected a finite number"),
        (HEADER + "a,x,0,10,85\n", "line 2: success_rate is 85, expected a fraction from 0 to 1"),
        (HEADER + "a,x,0,-10,0.5\n", "line 2: env_step is -10"),
        (HEADER + "a,x,0,10,0.5\na,x,0,10,0.6\n", "a/x/seed-0 has 2 rows for env_step 10; keep one"),
        (HEADER.replace("seed", "seed,seed") + "a,x,0,0,10,0.5\n", "a column is there twice"),
        ("method,task,seed,env_step,success_rate,protocol\na,x,0,10,0.5,any\n", "expected a JSON object"),
        ("method,task,seed,env_step,success_rate,protocol\na,x,0,10,0.5,[1]\n", "expected a JSON object"),
    ],
)
def test_a_bad_table_is_refused_by_file_and_place(tmp_path: Path, text: str, reason: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(DataError) as error:
        read_scores(path)
    assert str(error.value).startswith(str(path))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_or_is_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"method,task\n\xff\xfe\x00,1\n")
    with pytest.raises(DataError, match="data.csv: "):
        read_scores(tmp_path / "data.csv")
    with pytest.raises(DataError, match="missing.csv: cannot be read"):
        read_scores(tmp_path / "missing.csv")


def test_what_is_written_reads_back_the_same(tmp_path: Path, make_trial: MakeTrial) -> None:
    protocol = {"success rule": "any step; or, never", "policy": "mode"}
    labels = {"loss.action_kl_weight": 0.1, "env.camera": "corner", "videos": "experts"}
    trials = [
        make_trial(success=[0.1, 1 / 3], returns=[1.5, 2.25], labels=labels, protocol=protocol),
        make_trial("apv", seed=7, success=[], returns=[-3.0], status="failed"),
    ]
    write_scores(tmp_path / "scores.csv", [*trials, make_trial("begun", success=[])])
    again = read_scores(tmp_path / "scores.csv")
    assert len(again) == 2  # a run without scores leaves no row
    for trial, read in zip(trials, again, strict=True):
        for name in ("method", "task", "seed", "status", "labels", "protocol"):
            assert getattr(read, name) == getattr(trial, name)
        assert read.scores.keys() == trial.scores.keys()
        for metric, points in trial.scores.items():
            assert all(np.array_equal(*pair) for pair in zip(points, read.scores[metric], strict=True))
    assert again[1].reason == "as its table of scores says"
