"""Charts: right size, both themes, drawn from odd data too."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from prelar_ray.reporting import figures
from prelar_ray.reporting.drawing import Picture
from prelar_ray.reporting.runs import Evaluation, Prediction
from prelar_ray.statistics import mean_interval, success_interval


def decode(png: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(png)))


def evaluations(count: int, episodes: int = 3, task: str = "a/b") -> list[Evaluation]:
    returns, success = mean_interval([*range(episodes)]), success_interval([True] * episodes)
    return [Evaluation(10 * i, i, task, episodes, returns, success, "any step", "mode") for i in range(count)]


def check(picture: Picture) -> None:
    light, dark = decode(picture.light), decode(picture.dark)
    assert light.size == dark.size
    assert light.width / light.height == pytest.approx(picture.width / picture.height, rel=0.02)
    assert light.getextrema()[3][0] == 0  # a transparent ground takes the page's colour
    assert np.asarray(light).tobytes() != np.asarray(dark).tobytes()
    assert picture.alt


@pytest.mark.parametrize("count", [1, 2, 500])
def test_a_metric_is_drawn_with_few_and_many_points(count: int) -> None:
    x = np.arange(count, dtype=np.float64)
    check(figures.metric_chart(x, np.exp(-x / 20) + 1e-3, "update", "total (nats)"))


@pytest.mark.parametrize("count", [1, 30])
def test_several_metrics_are_drawn_together(count: int) -> None:
    x = np.arange(count, dtype=np.float64)
    curves = {name: (x, np.sin(x + shift)) for shift, name in enumerate(("own", "shuffled", "zero", "repeated"))}
    picture = figures.curves_chart(curves, "update", "error (nats)", dashed="repeated")
    check(picture)
    assert "own, shuffled, zero, repeated" in picture.alt


@pytest.mark.parametrize("count", [1, 5, 64])
def test_bars_are_drawn_with_few_and_many_entries(count: int) -> None:
    check(figures.bar_chart({str(i): (-0.5) ** i for i in range(count)}, "dimension", "KL (nats)"))


@pytest.mark.parametrize(("count", "episodes"), [(1, 1), (1, 10), (8, 10)])
@pytest.mark.parametrize("success", [True, False])
def test_evaluations_are_drawn_even_without_an_interval(count: int, episodes: int, success: bool) -> None:
    check(figures.evaluation_chart(evaluations(count, episodes), success))


def test_evaluations_on_several_tasks_are_told_apart() -> None:
    check(figures.evaluation_chart(evaluations(2) + evaluations(2, task="c/d"), success=True))


@pytest.mark.parametrize("counts", [(3, 3), (3, 1), (1, 1)])
def test_seeds_are_drawn_together(counts: tuple[int, int]) -> None:
    check(figures.seeds_chart([evaluations(count) for count in counts], success=False))


def test_seeds_without_common_steps_have_no_mean_but_a_chart() -> None:
    check(figures.seeds_chart([evaluations(3)[:1], evaluations(3)[2:]], success=False))


@pytest.mark.parametrize(("length", "context"), [(1, 1), (2, 1), (25, 5), (25, 25), (100, 1)])
def test_a_strip_is_drawn_for_any_length_and_context(length: int, context: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)
    prediction = Prediction(frames, frames, frames, context)
    check(figures.frame_strip(prediction))
    check(figures.prediction_error_chart(prediction))


def test_the_strip_shows_the_frames_unchanged() -> None:
    rows = [np.full((2, 4, 4, 3), value, np.uint8) for value in (10, 20, 30)]
    mosaic = figures.mosaic(rows, gap=2)
    assert mosaic.shape == (16, 10, 4)
    assert (mosaic[6:10, 6:10] == [20, 20, 20, 255]).all()
    assert (mosaic[4:6] == 0).all()


def test_the_rolling_mean_keeps_a_constant_and_smooths_noise() -> None:
    assert figures._rolling_mean(np.full(200, 3.0)) == pytest.approx(np.full(200, 3.0))
    noise = np.random.default_rng(0).normal(size=2000)
    smooth = figures._rolling_mean(noise)
    assert smooth.shape == noise.shape
    assert smooth.std() < 0.2 * noise.std()


def test_a_chart_contains_no_address() -> None:
    picture = figures.metric_chart(np.arange(3.0), np.arange(3.0), "update", "total")
    assert b"http" not in base64.b64decode(picture.light)
