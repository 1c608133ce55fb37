"""The table of metrics and its page."""

from __future__ import annotations

from pathlib import Path

from prelar_ray.telemetry.metrics import METRICS, metrics_page

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_documented_page_is_up_to_date() -> None:
    assert PAGE.read_text() == metrics_page(), "write metrics_page() to docs/metrics.md"


def test_every_metric_has_a_group_and_a_sentence() -> None:
    for name, metric in METRICS.items():
        assert name.count("/") == 1
        assert metric.meaning[0].isupper()
        assert metric.meaning.endswith(".")
