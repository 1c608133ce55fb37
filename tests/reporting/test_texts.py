"""Names of unknown origin in tables and charts: shown, never run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from prelar_ray.reporting.charts import intervals_chart, series_styles
from prelar_ray.reporting.scores import RunScores, name_series, read_scores, write_scores
from prelar_ray.reporting.texts import csv_text, label_text, markdown_text, read_csv_text
from prelar_ray.statistics import Interval

FORMULA = '=HYPERLINK("http://evil","x")'


@pytest.mark.parametrize("text", [FORMULA, "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "'=1", "''@x"])
def test_a_cell_that_a_spreadsheet_would_compute_is_text_and_read_back(text: str) -> None:
    assert csv_text(text)[0] == "'"
    assert read_csv_text(csv_text(text)) == text


@pytest.mark.parametrize("text", ["", "prelar", "-1.5", "+3e-4", "it's", "'quoted'", "a=b"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert csv_text(text) == read_csv_text(text) == text


def test_markdown_shows_links_html_and_bars_as_they_are() -> None:
    assert markdown_text("a|b <script> [x](y) `c`\n# d & e") == ("a\\|b &lt;script&gt; \\[x\\](y) \\`c\\` # d &amp; e")


def test_long_labels_are_cut_and_stay_distinct() -> None:
    one, two = label_text("a" * 20_000), label_text("a" * 20_000 + "b")
    assert len(one) == len(two) <= 60
    assert one != two
    assert label_text("_hidden") == " _hidden"


def test_a_table_of_scores_holds_no_formula_and_is_read_back(
    tmp_path: Path, make_scores: Callable[..., RunScores]
) -> None:
    run = make_scores(FORMULA, task="@task/x", labels={"=evil.key": "+cmd", "loss.weight": -0.5})
    write_scores(tmp_path / "scores.csv", [run])
    with (tmp_path / "scores.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "@", "-") and cell != "-0.5"]
    (found,) = read_scores(tmp_path / "scores.csv")
    assert (found.method, found.task, dict(found.labels)) == (run.method, run.task, dict(run.labels))


@pytest.mark.parametrize("name", [r"$\frac{$", "$x$ and $y$", "$" * 7, r"\$\\", "_", "a" * 20_000, "line\nline"])
def test_names_in_charts_are_drawn_as_plain_text(name: str) -> None:
    other = f"{name} other"
    intervals = {of: Interval(0.5, 0.4, 0.6, 10) for of in (name, other)}
    chart = intervals_chart(intervals, list(series_styles([name, other]).values()), "success rate", True)
    assert chart.width < 10  # inches
    assert chart.picture("light")


def test_names_of_series_are_cut(make_scores: Callable[..., RunScores]) -> None:
    runs = [make_scores(labels={"a.b": "x" * 20_000, "c.d": number}) for number in range(2)]
    assert all(len(name) <= 200 for name in name_series(runs))
    assert len(name_series(runs)) == 2
