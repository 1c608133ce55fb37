"""Telemetry of a run: metrics on disk, progress on the terminal."""

from prelar_ray.telemetry.metrics import METRICS, Metric
from prelar_ray.telemetry.progress import Phase, Progress, console
from prelar_ray.telemetry.writers import MetricWriter, read_metrics

__all__ = ["METRICS", "Metric", "MetricWriter", "Phase", "Progress", "console", "read_metrics"]
