"""The table of scores: read, refused with the place of the mistake, written; runs grouped into series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from prelar_ray.errors import DataError, UsageError
from prelar_ray.reporting.scores import (
    RETURN,
    SUCCESS,
    RunScores,
    name_series,
    read_scores,
    score_table,
    shown,
    varying_labels,
    write_scores,
)

MakeScores = Callable[..., RunScores]
HEADER = "method,task,seed,env_step,success_rate\n"


def test_a_series_is_named_by_its_method_and_by_what_varies(make_scores: MakeScores) -> None:
    runs = [
        make_scores(seed=seed, labels={"loss.action_kl_weight": weight, "seedless.constant": 3})
        for weight in (0.1, 1)
        for seed in (0, 1)
    ]
    runs += [make_scores("apv", labels={"loss.action_kl_weight": 7})]
    series = name_series(runs)
    assert list(series) == ["prelar (β_a=0.1)", "prelar (β_a=1)", "apv"]
    assert [run.seed for run in series["prelar (β_a=1)"]] == [0, 1]


def test_seeds_of_pretraining_make_series_of_their_own(make_scores: MakeScores) -> None:
    runs = [make_scores(seed=seed, labels={"pretrain.seed": first}) for first in (0, 1) for seed in (0, 1)]
    assert list(name_series(runs)) == ["prelar (pre-training seed=0)", "prelar (pre-training seed=1)"]


def test_a_setting_that_a_run_lacks_tells_it_apart(make_scores: MakeScores) -> None:
    assert list(name_series([make_scores(), make_scores(labels={"a.b": 1})])) == ["prelar", "prelar (b=1)"]


def test_settings_of_the_same_last_name_are_written_out(make_scores: MakeScores) -> None:
    runs = [make_scores(labels={"a.rate": x, "b.rate": x}) for x in (1, 2)]
    assert list(name_series(runs)) == ["prelar (a.rate=1, b.rate=1)", "prelar (a.rate=2, b.rate=2)"]
    assert varying_labels(runs) == {"prelar": ["a.rate", "b.rate"]}


def test_equal_numbers_are_one_setting(make_scores: MakeScores) -> None:
    assert list(name_series([make_scores(labels={"a.b": 1}), make_scores(seed=1, labels={"a.b": 1.0})])) == ["prelar"]
    assert [shown(value) for value in (1.0, 0.1, True, None, "x", [1, 2])] == [
        "1",
        "0.1",
        "true",
        "null",
        "x",
        "[1, 2]",
    ]


def test_a_seed_that_is_there_twice_is_refused_by_name(make_scores: MakeScores) -> None:
    twice = [make_scores(name="one", source="a"), make_scores(name="two", source="b")]
    with pytest.raises(UsageError, match="seed 0, is there twice: one of a and two of b; a seed counts once"):
        name_series(twice)
    name_series([twice[0], make_scores(name="two", source="b", success=[])])  # a run that has not begun is no second


def test_the_table_has_a_row_per_evaluation(make_scores: MakeScores) -> None:
    run = make_scores(success=[0.1, 0.4])
    assert run.last_step == 2000
    table = score_table([run, make_scores(seed=1, success=[], returns=[3.0], labels={"a.b": 1, "c": "x"})])
    assert list(table.columns) == [
        *("run", "method", "task", "seed", "env_step", "success_rate", "episode_return", "status"),
        *("a.b", "label.c", "protocol"),
    ]
    assert table[["run", "env_step", "success_rate", "episode_return"]].fillna(-1).to_numpy().tolist() == [
        [0, 1000, 0.1, -1],
        [0, 2000, 0.4, -1],
        [1, 1000, -1, 3.0],
    ]


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "data.csv"
    path.write_text(text)
    return path


def test_rows_become_a_trial_per_method_task_and_seed_in_the_order_of_steps(tmp_path: Path) -> None:
    rows = "a,x,0,20,0.5\na,x,0,10,0.25\na,x,1,10,1\nb,x,0,10,0\n"
    first, second, third = read_scores(table(tmp_path, HEADER + rows))
    assert (first.method, first.task, first.seed, first.source) == ("a", "x", 0, "data.csv")
    assert first.scores[SUCCESS].to_dict() == {10: 0.25, 20: 0.5}
    assert (second.seed, third.method) == (1, "b")
    assert first.is_complete
    assert first.protocol == {}


def test_a_score_may_be_missing_where_the_other_is_there(tmp_path: Path) -> None:
    text = "method,task,seed,env_step,success_rate,episode_return,note\na,x,0,10,,3.5,hello\na,x,0,20,0.5,4,\n"
    (run,) = read_scores(table(tmp_path, text))
    assert run.scores[SUCCESS].dropna().to_dict() == {20: 0.5}
    assert run.scores[RETURN].to_dict() == {10: 3.5, 20: 4.0}


def test_columns_with_a_dot_tell_runs_apart(tmp_path: Path) -> None:
    text = "method,task,seed,env_step,episode_return,loss.w\na,x,0,10,1,0.1\na,x,0,10,2,1\na,x,0,10,3,\n"
    runs = read_scores(table(tmp_path, text))
    assert [run.labels for run in runs] == [{"loss.w": 0.1}, {"loss.w": 1.0}, {}]


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


def test_what_is_written_reads_back_the_same(tmp_path: Path, make_scores: MakeScores) -> None:
    protocol = {"success rule": "any step; or, never", "policy": "mode"}
    labels = {"loss.action_kl_weight": 0.1, "env.camera": "corner", "videos": "experts"}
    runs = [
        make_scores(success=[0.1, 1 / 3], returns=[1.5, 2.25], labels=labels, protocol=protocol),
        make_scores("apv", seed=7, success=[], returns=[-3.0], status="failed"),
    ]
    write_scores(tmp_path / "scores.csv", [*runs, make_scores("begun", success=[])])
    again = read_scores(tmp_path / "scores.csv")
    assert len(again) == 2  # a run without scores leaves no row
    for run, read in zip(runs, again, strict=True):
        for name in ("method", "task", "seed", "status", "labels", "protocol"):
            assert getattr(read, name) == getattr(run, name)
        pd.testing.assert_frame_equal(read.scores, run.scores, check_exact=True, check_names=False)
    assert again[1].reason == "as its table of scores says"
