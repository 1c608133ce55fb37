"""Tables of a comparison in three forms, what its runs cost, and how numbers are written."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from prelar_ray.reporting.compare import Group, Options, compare
from prelar_ray.reporting.formats import duration, number, score_text, steps_text
from prelar_ray.reporting.scores import RETURN, SUCCESS, RunScores, name_series
from prelar_ray.reporting.tables import cost_table, latex, markdown, score_texts, summary_csv, total_costs
from prelar_ray.statistics import Interval

MakeScores = Callable[..., RunScores]
GPU = {"hardware": {"gpus": ["H100"]}, "timings": {"finetune": 7200.0, "evaluate": 50.0}}


def compared(runs: Sequence[RunScores]) -> Group:
    (group,) = compare(name_series(runs), Options(), {})
    return group


@pytest.fixture
def group(make_scores: MakeScores) -> Group:
    runs = [
        make_scores(method, task, seed, [0.0, rate])
        for method, rates in (("prelar", (0.2, 0.4)), ("apv_naive", (0.0, 0.1)))
        for task in ("prelar/a", "prelar/b")
        for seed, rate in enumerate(rates)
    ]
    return compared([*runs, make_scores("prelar", "prelar/c", 0, [0.0, 1.0])])


def test_a_cell_says_that_it_has_no_interval() -> None:
    assert score_text(Interval(0.856, 0.8, 0.9, 8), SUCCESS) == "0.86 [0.80, 0.90]"
    assert score_text(Interval(123.45, math.nan, math.nan, 1), RETURN) == "123.5 (no interval)"


def test_steps_that_were_not_reached_are_later_than_the_last() -> None:
    def plain(*bounds: float) -> str:
        return steps_text(Interval(*bounds, 4), 245_000).replace("\N{NARROW NO-BREAK SPACE}", " ")

    assert plain(65_000, 45_000, math.inf) == "65 000 [45 000, > 245 000]"
    assert plain(math.inf, math.nan, math.nan) == "> 245 000 (no interval)"


def test_tasks_are_rows_with_mean_and_iqm_below(group: Group) -> None:
    table = score_texts(group)
    assert table.lines[0] == ["", "prelar", "apv_naive"]
    assert [row[0] for row in table.lines[1:]] == [
        "prelar/a",
        "prelar/b",
        "prelar/c",
        "mean over tasks",
        "IQM over tasks",
    ]
    assert table.lines[1][1:] == ["0.30 [0.20, 0.40], n=2", "0.05 [0.00, 0.10], n=2"]
    assert table.lines[3][1:] == ["1.00 (no interval), n=1", "–"]
    assert table.lines[4][1].startswith("0.30 [")  # over a and b, which both series have
    assert "at 2\N{NARROW NO-BREAK SPACE}000 environment steps: mean over n seeds" in table.caption


def test_of_many_series_each_is_a_row(make_scores: MakeScores) -> None:
    table = score_texts(compared([make_scores(f"m{number}") for number in range(5)]))
    assert table.lines[0] == ["", "prelar/point-reach"]
    assert [row[0] for row in table.lines[1:]] == [f"m{number}" for number in range(5)]


def test_markdown_has_as_many_cells_in_every_line(group: Group) -> None:
    text = markdown([score_texts(group)])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {4}
    assert "| prelar/a | 0.30 [0.20, 0.40], n=2 | 0.05 [0.00, 0.10], n=2 |" in lines


def test_latex_is_escaped_and_has_as_many_cells_in_every_row(group: Group) -> None:
    text = latex([score_texts(group)])
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


def config(device: str = "auto", ranks: int = 1, gpus: float = 0.0, collectors: int = 1, theirs: float = 0.0) -> Any:
    return {
        "method": "prelar",
        "device": device,
        "learner": {"ranks": ranks, "gpus": gpus},
        "collect": {"collectors": collectors, "gpus": theirs},
    }


def costs(*runs: RunScores) -> list[tuple[float, float, float]]:
    """Seconds, GPUs and GPU hours of each."""
    return [(row.seconds, row.gpus, row.gpu_hours) for row in cost_table(runs).itertuples()]


def gpus(run: RunScores) -> float:
    return costs(run)[0][1]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (config(), 1.0),
        (config("cpu"), 0.0),
        (config("cuda", ranks=2), 2.0),
        (config("cuda", ranks=2, gpus=0.5), 1.0),
        (config("cuda", collectors=4, theirs=0.25), 2.0),
        (config("cuda") | {"evaluation": {"gpus": 0.5}}, 1.5),
    ],
)
def test_gpu_hours_are_wall_time_times_the_gpus_kept(make_scores: MakeScores, settings: Any, kept: float) -> None:
    assert costs(make_scores(info=GPU, config=settings)) == [(7200.0, kept, 2 * kept)]


def test_auto_on_a_machine_without_gpus_kept_none(make_scores: MakeScores) -> None:
    info = {**GPU, "hardware": {"gpus": []}}
    assert gpus(make_scores(info=info, config=config())) == 0.0
    assert gpus(make_scores(info=info, config=config("cuda"))) == 1.0  # of another node of the cluster


def test_pretraining_has_no_collectors(make_scores: MakeScores) -> None:
    info = {**GPU, "timings": {"pretrain": 3600.0}}
    run = make_scores(phase="pretrain", info=info, config=config("cuda", collectors=4, theirs=0.25))
    assert costs(run) == [(3600.0, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("info", "settings"), [({**GPU, "timings": {}}, config()), (GPU, {}), (GPU, {"device": "cuda", "learner": None})]
)
def test_what_is_not_recorded_is_not_guessed(make_scores: MakeScores, info: Any, settings: Any) -> None:
    assert math.isnan(costs(make_scores(info=info, config=settings))[0][2])


def test_environments_of_rllib_have_no_gpu(make_scores: MakeScores) -> None:
    settings = {**config("cuda", collectors=4, theirs=0.25), "method": "rllib/PPO"}
    assert gpus(make_scores(info=GPU, config=settings)) == 1.0


def test_a_total_says_of_how_many_runs_the_cost_is_not_known(make_scores: MakeScores) -> None:
    runs = [
        make_scores(info=GPU, config=config()),
        make_scores(info={**GPU, "timings": {}}, config=config()),
        make_scores(),
    ]
    total = total_costs(cost_table(runs))  # the third never began
    assert total.to_dict("records") == [
        {"method": "prelar", "phase": "finetune", "runs": 2, "seconds": 7200.0, "gpu_hours": 2.0, "unknown": 1}
    ]
    both = total_costs(cost_table([*runs, make_scores("apv", info=GPU, config=config())]))
    assert both[["method", "seconds", "unknown"]].to_numpy().tolist() == [
        ["prelar", 7200.0, 1],
        ["apv", 7200.0, 0],
        ["all", 14400.0, 1],
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.0, "0"),
        (1234567, "1 234 567"),
        (12345.6, "12 346"),
        (3.14159, "3.14"),
        (0.05, "0.0500"),
        (1e-7, "1e-07"),
        (float("nan"), "nan"),
        ("text", "text"),
        (True, "True"),
    ],
)
def test_numbers_have_three_significant_digits(value: object, shown: str) -> None:
    assert number(value).replace("\N{NARROW NO-BREAK SPACE}", " ") == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(4.23, "4.2 s"), (59.96, "1:00 min"), (185, "3:05 min"), (7385.2, "2:03:05 h"), ("x", "x")]
)
def test_durations_are_readable(seconds: object, shown: str) -> None:
    assert duration(seconds) == shown
