"""Tables of a comparison in three forms."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence

import pytest

from prelar_ray.reporting.comparison import Group, Options, compare_group, group_tasks
from prelar_ray.reporting.study_tables import latex, markdown, score_table, score_text, steps_text, summary_csv
from prelar_ray.reporting.trials import RETURN, SUCCESS, Trial, name_series
from prelar_ray.statistics import Interval

MakeTrial = Callable[..., Trial]


def compared(trials: Sequence[Trial]) -> Group:
    series = name_series(trials)
    ((metric, tasks),) = group_tasks(series).items()
    return compare_group(series, metric, tasks, Options(), {})


@pytest.fixture
def group(make_trial: MakeTrial) -> Group:
    trials = [
        make_trial(method, task, seed, [0.0, rate])
        for method, rates in (("prelar", (0.2, 0.4)), ("apv_naive", (0.0, 0.1)))
        for task in ("prelar/a", "prelar/b")
        for seed, rate in enumerate(rates)
    ]
    return compared([*trials, make_trial("prelar", "prelar/c", 0, [0.0, 1.0])])


def test_a_cell_says_that_it_has_no_interval() -> None:
    assert score_text(Interval(0.856, 0.8, 0.9, 8), SUCCESS) == "0.86 [0.80, 0.90]"
    assert score_text(Interval(123.45, math.nan, math.nan, 1), RETURN) == "123.5 (no interval)"


def test_steps_that_were_not_reached_are_later_than_the_last() -> None:
    def plain(*bounds: float) -> str:
        return steps_text(Interval(*bounds, 4), 245_000).replace("\N{NARROW NO-BREAK SPACE}", " ")

    assert plain(65_000, 45_000, math.inf) == "65 000 [45 000, > 245 000]"
    assert plain(math.inf, math.nan, math.nan) == "> 245 000 (no interval)"


def test_tasks_are_rows_with_mean_and_iqm_below(group: Group) -> None:
    table = score_table(group)
    assert table.header == ["", "prelar", "apv_naive"]
    assert [row[0] for row in table.rows] == ["prelar/a", "prelar/b", "prelar/c", "mean over tasks", "IQM over tasks"]
    assert table.rows[0][1:] == ["0.30 [0.20, 0.40], n=2", "0.05 [0.00, 0.10], n=2"]
    assert table.rows[2][1:] == ["1.00 (no interval), n=1", "–"]
    assert table.rows[3][1].startswith("0.30 [")  # over a and b, which both series have
    assert "at 2\N{NARROW NO-BREAK SPACE}000 environment steps: mean over n seeds" in table.caption


def test_of_many_series_each_is_a_row(make_trial: MakeTrial) -> None:
    table = score_table(compared([make_trial(f"m{number}") for number in range(5)]))
    assert table.header == ["", "prelar/point-reach"]
    assert [row[0] for row in table.rows] == [f"m{number}" for number in range(5)]


def test_markdown_has_as_many_cells_in_every_line(group: Group) -> None:
    text = markdown([score_table(group)])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {4}
    assert "| prelar/a | 0.30 [0.20, 0.40], n=2 | 0.05 [0.00, 0.10], n=2 |" in lines


def test_latex_is_escaped_and_has_as_many_cells_in_every_row(group: Group) -> None:
    text = latex([score_table(group)])
    assert "apv\\_naive" in text
    assert "95 \\% stratified" in text
    assert "2\\,000 environment steps" in text
    rows = text[text.index("\\toprule") : text.index("\\bottomrule")].splitlines()
    assert {row.count(" & ") for row in rows if row.endswith("\\\\")} == {2}
    assert text.isascii()


def test_the_summary_has_every_number_with_its_interval(group: Group) -> None:
    rows = list(csv.DictReader(io.StringIO(summary_csv([group]))))
    found = {(row["quantity"], row["series"], row["task"]): row for row in rows}
    assert len(found) == len(rows)
    mean = found["mean", "prelar", "prelar/a"]
    assert (mean["estimate"], mean["low"], mean["high"], mean["runs"], mean["env_step"]) == (
        *("0.3", "0.2", "0.4"),
        *("2", "2000"),
    )
    single = found["mean", "prelar", "prelar/c"]
    assert (single["estimate"], single["low"]) == ("1", "")
    assert float(found["mean_over_tasks", "apv_naive", ""]["estimate"]) == pytest.approx(0.05)
    assert found["probability_of_improvement", "prelar", ""]["over"] == "apv_naive"
    never = found["steps_until_half_reached_0.5", "prelar", "prelar/a"]
    assert (never["estimate"], never["reached"]) == ("", "0")
    assert "iqm_over_tasks" in {row["quantity"] for row in rows}
