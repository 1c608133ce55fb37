"""Metrics as gauges of Ray, for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from ray.util.metrics import Gauge

from prelar_ray.telemetry.metrics import GAUGES, METRICS

__all__ = ["Gauges"]

REPEAT_SECONDS: Final = 5.0
"""Between two settings of the same value; below the interval in which processes report to Ray, 10 s by default."""


class Gauges:
    """``ray_prelar_GROUP_NAME`` of one run or study, which a tag tells from others on the cluster.

    Each keeps its last value until :meth:`close`. Ray 2.60 reports a gauge once for each time that it is set, and
    forgets it two reports later. Lines of metrics are further apart than that, evaluations by far, so a thread sets all
    of them again.
    """

    def __init__(self, **tags: str) -> None:
        """Begin with none.

        Args:
            tags: of all gauges, such as ``run``.
        """
        self._tags = tags
        self._gauges: dict[str, Gauge] = {}
        self._shown: dict[tuple[str, str], tuple[float, dict[str, str]]] = {}  # by name and further tags
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._repeater = threading.Thread(target=self._repeat, name="gauges", daemon=True)
        self._repeater.start()

    def show(self, values: Mapping[str, float], **tags: str) -> None:
        """Set each to its last value.

        Args:
            values: by names of :data:`~prelar_ray.telemetry.metrics.METRICS` or ``GAUGES``.
            tags: besides those of all; a name always has the same.
        """
        all_tags = self._tags | tags
        with self._lock:
            for name, value in values.items():
                if name not in self._gauges:
                    self._gauges[name] = _gauge(name, tuple(all_tags))
                self._shown[name, str(tags)] = value, all_tags
                self._gauges[name].set(value, all_tags)

    def _repeat(self) -> None:
        while not self._closed.wait(REPEAT_SECONDS):
            with self._lock:
                for (name, _), (value, tags) in self._shown.items():
                    self._gauges[name].set(value, tags)

    def close(self) -> None:
        """Let Ray forget them; while this process is connected to it."""
        self._closed.set()
        self._repeater.join()


def _gauge(name: str, tags: tuple[str, ...]) -> Gauge:
    metric = METRICS[name] if name in METRICS else GAUGES[name]
    plain = metric.meaning.encode("ascii", "ignore").decode()  # Ray takes nothing else
    return Gauge(f"prelar_{name.replace('/', '_')}", plain, tag_keys=tags)
