"""Charts: right size, both themes, drawn from odd data too, on pages and into files."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from prelar_ray.reporting import charts
from prelar_ray.reporting.charts import series_styles
from prelar_ray.reporting.compare import Curve, HeatMap, Options, compare, series_table, task_curves
from prelar_ray.reporting.comparison_report import _sections
from prelar_ray.reporting.drawing import THEMES, Chart, mosaic
from prelar_ray.reporting.prediction import PredictedFrames
from prelar_ray.reporting.published_curves import published_series
from prelar_ray.reporting.read import Run
from prelar_ray.reporting.scores import RETURN, SUCCESS, RunScores, name_series
from prelar_ray.statistics import Interval
from prelar_ray.storage.records import EvaluationRecord

pytestmark = pytest.mark.usefixtures("_few_resamples")

MakeScores = Callable[..., RunScores]
TASK = "metaworld/reach-v3"


def painted(chart: Chart) -> Figure:
    """The figure with everything in its place, not rendered."""
    figure = Figure(figsize=(chart.width, chart.height), layout="constrained")
    chart.paint(figure)
    figure.draw_without_rendering()
    assert chart.alt
    return figure


def run_of(values: Sequence[float]) -> Run:
    return Run(Path("run"), metrics=[{"update": x, "loss/total": y, "loss/image": -y} for x, y in enumerate(values)])


def evaluated(count: int, episodes: int = 3, task: str = "a/b") -> list[EvaluationRecord]:
    return [
        EvaluationRecord(
            update=number,
            env_steps=10 * number,
            task=task,
            returns=tuple(map(float, range(episodes))),
            successes=(True,) * episodes,
            success_rule="any step",
            policy="mode",
        )
        for number in range(count)
    ]


def test_a_chart_is_rendered_for_both_themes_and_into_files_that_are_white_and_without_dates() -> None:
    chart = charts.metric_chart(run_of([1.0, 2.0]), "loss/total", "update", "total (nats)")
    light, dark = (Image.open(io.BytesIO(base64.b64decode(chart.picture(theme)))) for theme in THEMES)
    assert light.size == dark.size
    assert light.width / light.height == pytest.approx(chart.css_size[0] / chart.css_size[1], rel=0.02)
    assert light.getextrema()[3][0] == 0  # a transparent ground takes the page's colour
    assert light.tobytes() != dark.tobytes()
    files = chart.files()
    assert files == charts.metric_chart(run_of([1.0, 2.0]), "loss/total", "update", "total (nats)").files()
    assert b"Matplotlib" not in files[".png"] + files[".pdf"]
    assert b"http" not in base64.b64decode(chart.picture("light"))
    assert files[".pdf"].startswith(b"%PDF")
    file = Image.open(io.BytesIO(files[".png"])).convert("RGBA")
    assert file.getpixel((0, 0)) == (255, 255, 255, 255)
    assert file.width == round(200 * chart.width)


@pytest.mark.parametrize("count", [1, 2, 500])
def test_a_metric_is_drawn_with_few_and_many_points(count: int) -> None:
    values = np.exp(-np.arange(count) / 20) + 1e-3
    (axes,) = painted(charts.metric_chart(run_of(values.tolist()), "loss/total", "update", "total (nats)")).axes
    assert len(axes.lines) == (2 if count == 500 else 1)  # pale, under its mean
    assert axes.get_yscale() == ("log" if count == 500 else "linear")


def test_several_metrics_are_drawn_together_and_those_without_values_left_out() -> None:
    chart = charts.metrics_chart(
        run_of([1.0]), ("loss/total", "loss/reward", "loss/image"), "error (nats)", "loss/image"
    )
    assert chart is not None
    assert chart.alt == "error (nats) over updates: total, image"
    assert [line.get_linestyle() for line in painted(chart).axes[0].lines] == ["-", "--"]
    assert charts.metrics_chart(run_of([1.0]), ("loss/reward",), "error (nats)") is None


@pytest.mark.parametrize("count", [1, 5, 64])
def test_bars_are_named_where_there_is_room(count: int) -> None:
    chart = charts.bar_chart({str(number): (-0.5) ** number for number in range(count)}, "dimension", "KL (nats)")
    (axes,) = painted(chart).axes
    assert len(axes.patches) == count
    assert ("0" in [label.get_text() for label in axes.get_xticklabels()]) or count > charts.BAR_NAMES


@pytest.mark.parametrize(("count", "episodes"), [(1, 1), (1, 10), (8, 10)])
@pytest.mark.parametrize("metric", [SUCCESS, RETURN])
def test_evaluations_are_drawn_even_without_an_interval(count: int, episodes: int, metric: str) -> None:
    painted(charts.evaluation_chart(Run(Path("run"), evaluations=evaluated(count, episodes)), metric))


def test_evaluations_on_several_tasks_are_told_apart() -> None:
    run = Run(Path("run"), evaluations=evaluated(2) + evaluated(2, task="c/d"))
    legend = painted(charts.evaluation_chart(run, SUCCESS)).axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a/b", "c/d"]


@pytest.mark.parametrize(("counts", "common"), [((3, 3), True), ((3, 1), True), ((1, 1), True), ((3, 0), False)])
def test_seeds_are_drawn_together_with_a_mean_where_they_have_common_steps(
    counts: tuple[int, int], common: bool
) -> None:
    runs = [Run(Path("run"), evaluations=evaluated(count) or evaluated(4)[3:]) for count in counts]
    (axes,) = painted(charts.seeds_chart(runs, RETURN)).axes
    assert len(axes.containers) == common
    assert (axes.get_legend() is not None) == common


@pytest.mark.parametrize(("length", "context"), [(1, 1), (2, 1), (25, 5), (25, 25), (100, 1)])
def test_a_strip_is_drawn_for_any_length_and_context(length: int, context: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)
    prediction = PredictedFrames(frames, frames, frames, context)
    (axes,) = painted(charts.frame_strip(prediction)).axes
    assert len(axes.lines) == (0 < context < length)
    painted(charts.prediction_error_chart(prediction))


def test_the_strip_shows_the_frames_unchanged() -> None:
    rows = [np.full((2, 4, 4, 3), value, np.uint8) for value in (10, 20, 30)]
    picture = mosaic(rows, gap=2)
    assert picture.shape == (16, 10, 4)
    assert (picture[6:10, 6:10] == [20, 20, 20, 255]).all()
    assert (picture[4:6] == 0).all()


def test_the_rolling_mean_keeps_a_constant_and_smooths_noise() -> None:
    assert charts._rolling_mean(np.full(200, 3.0)) == pytest.approx(np.full(200, 3.0))
    noise = np.random.default_rng(0).normal(size=2000)
    smooth = charts._rolling_mean(noise)
    assert smooth.shape == noise.shape
    assert smooth.std() < 0.2 * noise.std()


def curves(make_scores: MakeScores, series: int, seeds: int = 3, status: str = "finished") -> list[Curve]:
    runs = [make_scores(f"m{m}", TASK, s, [0.1 * s, 0.5], status=status) for m in range(series) for s in range(seeds)]
    return task_curves(series_table(name_series(runs)), TASK, SUCCESS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("series", "seeds"), [(1, 1), (2, 3), (12, 2)])
def test_curves_of_one_and_of_many_series_are_drawn(make_scores: MakeScores, series: int, seeds: int) -> None:
    found = curves(make_scores, series, seeds)
    figure = painted(charts.curves_chart(found, series_styles(c.series for c in found), "success rate", True))
    assert len(figure.axes[0].lines) == series
    assert len(figure.axes[0].collections) == (series if series <= charts.MOST_BANDS else 0)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"m{m}" for m in range(series)]


def test_published_curves_are_dashed_and_runs_that_did_not_finish_dotted(make_scores: MakeScores) -> None:
    runs = [make_scores(task=TASK, seed=0, success=[0.1, 0.2]), make_scores(task=TASK, seed=1, status="failed")]
    series, published = name_series(runs), published_series([TASK])
    found = task_curves(series_table(series), TASK, SUCCESS)
    found += task_curves(series_table(published), TASK, SUCCESS, published=True)
    figure = painted(charts.curves_chart(found, series_styles(series, published), "success rate", True))
    styles = {line.get_label(): line.get_linestyle() for line in figure.axes[0].lines}
    assert styles["prelar"] == "-"
    assert {styles[name] for name in published} == {"--"}
    assert [line.get_linestyle() for line in figure.axes[0].lines].count(":") == 1
    assert len(figure.axes[0].collections) == 1  # no band around what is a reference


def test_the_curve_of_runs_under_way_says_so(make_scores: MakeScores) -> None:
    found = curves(make_scores, 1, status="running")
    assert "m0, unfinished" in charts.curves_chart(found, series_styles(["m0"]), "success rate", True).alt


def test_series_are_told_apart_by_colour_and_marker() -> None:
    styles = series_styles(map(str, range(40)), ["published"])
    assert len({(style.colour, style.marker) for style in styles.values()}) == 41
    assert "C2" not in {styles[str(number)].colour for number in range(40)}
    assert styles["published"].dashes


@pytest.mark.filterwarnings("error")
def test_intervals_and_their_absence_are_drawn() -> None:
    intervals = {"a" * 60: Interval(0.5, 0.4, 0.6, 5), "b": Interval(0.7, math.nan, math.nan, 1)}
    styles = list(series_styles(intervals).values())
    (axes,) = painted(charts.intervals_chart(intervals, styles, "mean success rate", True)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(intervals)
    assert len(axes.lines) == 3  # two points, one interval
    chart = charts.intervals_chart(intervals, styles, "probability of improvement", share=True, even=0.5)
    assert len(painted(chart).axes[0].lines) == 4
    assert chart.alt.startswith("Probability of improvement: ")
    assert "b 0.7" in chart.alt


@pytest.mark.filterwarnings("error")
def test_a_heat_map_writes_score_and_number_of_runs_into_each_cell() -> None:
    means = np.array([[0.25, np.nan], [1.0, 0.0]])
    chart = charts.heat_map_chart(
        HeatMap("prelar", "loss.action_kl_weight", "x.y", ["0.1", "1"], ["a", "b"], means, np.array([[5, 0], [3, 1]])),
        "mean success rate",
        True,
    )
    axes = painted(chart).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.25\nn=5", "no\nscore", "1.00\nn=3", "0.00\nn=1"]
    assert axes.get_ylabel() == "β_a   (loss.action_kl_weight)"
    assert axes.get_xlabel() == "x.y"


def charts_by_file(runs: Sequence[RunScores]) -> dict[str, Chart]:
    series = name_series(runs)
    sections = _sections(series, compare(series, Options(), {}), {})
    return {panel.file: panel.chart for _, _, panels in sections for panel in panels}


def test_every_chart_has_a_file_of_its_own_and_is_drawn(make_scores: MakeScores) -> None:
    runs = [
        make_scores(task=task, seed=seed, success=[0.1 * seed, 0.9], returns=[1, 2], labels={"a.b": x, "c.d": y})
        for task in ("metaworld/reach-v3", "prelar/point-reach")
        for seed in range(2)
        for x in (1, 2)
        for y in (1, 2)
    ]
    runs += [make_scores(task="dmc/walker-walk", seed=seed, success=[], returns=[5.0, 9.0]) for seed in range(2)]
    found = charts_by_file(runs)
    assert list(found) == [
        *(
            f"{name}-success"
            for name in ("mean", "iqm", "curve-mean", "curve-iqm", "improvement", "profile", "reached")
        ),
        "heat-map-prelar-success",
        *(f"{name}-return" for name in ("mean", "iqm", "curve-mean", "curve-iqm", "profile")),
        *("success-metaworld-reach-v3", "success-prelar-point-reach"),
        *("return-metaworld-reach-v3", "return-prelar-point-reach", "return-dmc-walker-walk"),
    ]
    for chart in found.values():
        painted(chart)


def test_fractions_on_an_axis_are_not_written_in_thousandths(make_scores: MakeScores) -> None:
    axes = painted(charts_by_file([make_scores(), make_scores(seed=1)])["profile-success"]).axes[0]
    assert "0.5" in [axes.xaxis.get_major_formatter()(0.5)]


def test_returns_per_task_are_drawn_beside_success(make_scores: MakeScores) -> None:
    table = series_table(name_series([make_scores(returns=[5.0])]))
    (curve,) = task_curves(table, "prelar/point-reach", RETURN)
    assert curve.band.estimate.tolist() == [5.0]
