"""Charts of a comparison: drawn from odd data too, on pages and into files."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from prelar_ray.reporting import study_figures
from prelar_ray.reporting.comparison import Curve, Improvement, Options, compare_group, group_tasks, task_curves
from prelar_ray.reporting.drawing import Chart, draw_chart
from prelar_ray.reporting.heat_maps import HeatMap
from prelar_ray.reporting.published_scores import published_series
from prelar_ray.reporting.study_figures import series_styles
from prelar_ray.reporting.study_panels import study_panels
from prelar_ray.reporting.trials import RETURN, SUCCESS, Trial, name_series
from prelar_ray.statistics import Interval

MakeTrial = Callable[..., Trial]
TASK = "metaworld/reach-v3"


def painted(chart: Chart) -> Figure:
    figure = Figure(figsize=(chart.width, chart.height), layout="constrained")
    chart.paint(figure)
    figure.draw_without_rendering()
    return figure


def curves(make_trial: MakeTrial, series: int, seeds: int = 3, status: str = "finished") -> list[Curve]:
    trials = [make_trial(f"m{m}", TASK, s, [0.1 * s, 0.5], status=status) for m in range(series) for s in range(seeds)]
    return task_curves(name_series(trials), TASK, SUCCESS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("series", "seeds"), [(1, 1), (2, 3), (12, 2)])
def test_curves_of_one_and_of_many_series_are_drawn(make_trial: MakeTrial, series: int, seeds: int) -> None:
    found = curves(make_trial, series, seeds)
    figure = painted(study_figures.curves_chart(found, series_styles(c.series for c in found), "success rate", True))
    assert len(figure.axes[0].lines) == series
    assert len(figure.axes[0].collections) == (series if series <= study_figures.MOST_BANDS else 0)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"m{m}" for m in range(series)]


def test_published_curves_are_dashed_and_runs_that_did_not_finish_dotted(make_trial: MakeTrial) -> None:
    trials = [make_trial(task=TASK, seed=0, success=[0.1, 0.2]), make_trial(task=TASK, seed=1, status="failed")]
    series, published = name_series(trials), published_series([TASK])
    found = [*task_curves(series, TASK, SUCCESS), *task_curves(published, TASK, SUCCESS, published=True)]
    figure = painted(study_figures.curves_chart(found, series_styles(series, published), "success rate", True))
    styles = {line.get_label(): line.get_linestyle() for line in figure.axes[0].lines}
    assert styles["prelar"] == "-"
    assert styles["APV (published, MuJoCo 2.0)"] == styles["DreamerV2 (published, MuJoCo 2.0)"] == "--"
    assert [line.get_linestyle() for line in figure.axes[0].lines].count(":") == 1
    assert len(figure.axes[0].collections) == 1  # no band around what is a reference


def test_the_curve_of_runs_that_go_on_says_so(make_trial: MakeTrial) -> None:
    found = curves(make_trial, 1, status="running")
    chart = study_figures.curves_chart(found, series_styles(["m0"]), "success rate", True)
    assert "m0, unfinished" in chart.alt


def test_series_are_told_apart_by_colour_and_marker() -> None:
    styles = series_styles(map(str, range(40)), ["published"])
    assert len({(style.colour, style.marker) for style in styles.values()}) == 41
    assert "C2" not in {styles[str(number)].colour for number in range(40)}
    assert styles["published"].dashes


@pytest.mark.filterwarnings("error")
def test_intervals_and_their_absence_are_drawn() -> None:
    intervals = {"a" * 60: Interval(0.5, 0.4, 0.6, 5), "b": Interval(0.7, math.nan, math.nan, 1)}
    styles = series_styles(intervals)
    figure = painted(study_figures.scores_chart(intervals, styles, "mean success rate", True))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(intervals)
    assert len(figure.axes[0].lines) == 3  # two points, one interval
    pairs = [Improvement("b", "a" * 60, intervals["b"])]
    chart = study_figures.improvement_chart(pairs, styles)
    painted(chart)
    assert "0.7" in chart.alt


@pytest.mark.filterwarnings("error")
def test_a_heat_map_writes_score_and_number_of_runs_into_each_cell() -> None:
    means = np.array([[0.25, np.nan], [1.0, 0.0]])
    chart = study_figures.heat_map_chart(
        HeatMap("prelar", "loss.action_kl_weight", "x.y", ["0.1", "1"], ["a", "b"], means, np.array([[5, 0], [3, 1]])),
        "mean success rate",
        True,
    )
    axes = painted(chart).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.25\nn=5", "no\nscore", "1.00\nn=3", "0.00\nn=1"]
    assert axes.get_ylabel() == "β_a   (loss.action_kl_weight)"
    assert axes.get_xlabel() == "x.y"


def panel_files(make_trial: MakeTrial, trials: Sequence[Trial]) -> dict[str, Chart]:
    series = name_series(trials)
    groups = [compare_group(series, *some, Options(), {}) for some in group_tasks(series).items()]
    sections = study_panels(series, groups, {})
    return {panel.file: panel.chart for section in sections for panel in section.panels}


def test_every_chart_has_a_file_of_its_own_and_is_drawn(make_trial: MakeTrial) -> None:
    trials = [
        make_trial(task=task, seed=seed, success=[0.1 * seed, 0.9], returns=[1, 2], labels={"a.b": x, "c.d": y})
        for task in ("metaworld/reach-v3", "prelar/point-reach")
        for seed in range(2)
        for x in (1, 2)
        for y in (1, 2)
    ]
    trials += [make_trial(task="dmc/walker-walk", seed=seed, success=[], returns=[5.0, 9.0]) for seed in range(2)]
    charts = panel_files(make_trial, trials)
    assert list(charts) == [
        *(
            f"{name}-success"
            for name in ("mean", "iqm", "curve-mean", "curve-iqm", "improvement", "profile", "reached")
        ),
        "heat-map-prelar-success",
        *(f"{name}-return" for name in ("mean", "iqm", "curve-mean", "curve-iqm", "profile")),
        *("success-metaworld-reach-v3", "success-prelar-point-reach"),
        *("return-metaworld-reach-v3", "return-prelar-point-reach", "return-dmc-walker-walk"),
    ]
    for chart in charts.values():
        painted(chart)
        assert chart.alt


def test_fractions_on_an_axis_are_not_written_in_thousandths(make_trial: MakeTrial) -> None:
    axes = painted(panel_files(make_trial, [make_trial(), make_trial(seed=1)])["profile-success"]).axes[0]
    assert "0.5" in [axes.xaxis.get_major_formatter()(0.5)]


def test_the_same_scores_give_the_same_files_white_and_without_dates(make_trial: MakeTrial) -> None:
    chart = panel_files(make_trial, [make_trial(), make_trial(seed=1)])["success-prelar-point-reach"]
    drawing = draw_chart(chart)
    again = draw_chart(chart)
    assert (drawing.png, drawing.pdf) == (again.png, again.pdf)
    assert b"Matplotlib" not in drawing.png + drawing.pdf
    assert drawing.pdf.startswith(b"%PDF")
    file = Image.open(io.BytesIO(drawing.png)).convert("RGBA")
    assert file.getpixel((0, 0)) == (255, 255, 255, 255)
    assert file.width == round(200 * chart.width)
    page = Image.open(io.BytesIO(base64.b64decode(drawing.picture.dark)))
    assert page.getextrema()[3][0] == 0  # a transparent ground takes the page's colour
    assert drawing.picture.light != drawing.picture.dark
    assert drawing.picture.alt == chart.alt


def test_returns_per_task_are_drawn_beside_success(make_trial: MakeTrial) -> None:
    (curve,) = task_curves(name_series([make_trial(returns=[5.0])]), "prelar/point-reach", RETURN)
    assert curve.band.estimate.tolist() == [5.0]
