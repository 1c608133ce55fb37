"""Metrics as gauges of Ray, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

from prelar_ray.telemetry.metrics import METRICS

__all__ = ["Gauges"]


class Gauges:
    """``ray_prelar_GROUP_NAME`` of one run, which the tag ``run`` tells from others on the cluster."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def show(self, values: Mapping[str, float]) -> None:
        """Set each to its last value."""
        for name, value in values.items():
            if name not in self._gauges:
                meaning = METRICS[name].meaning if name in METRICS else "Progress of the run."
                plain = meaning.encode("ascii", "ignore").decode()  # Ray takes nothing else
                self._gauges[name] = Gauge(f"prelar_{name.replace('/', '_')}", plain, tag_keys=("run",))
            self._gauges[name].set(value, {"run": self._run})
