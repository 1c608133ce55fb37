"""Lines of metrics on their way to files, to those who watch the cluster, and to who drives the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import psutil

from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.telemetry.writers import MetricWriter

__all__ = ["Line", "MetricLog", "process_memory"]

Line = Mapping[str, float]
"""Values by the names of :data:`~prelar_ray.telemetry.metrics.METRICS`, with ``update`` and ``env_steps``."""


class MetricLog:
    """Writes each line to ``metrics.jsonl`` and TensorBoard, reports it, and keeps it until it is asked for."""

    def __init__(self, run: RunFolder, report: Callable[[Line], None], resume_at_update: int | None) -> None:
        """Begin new files, or with ``resume_at_update`` continue those of the run.

        Raises:
            RunFolderError, DataError: see :class:`MetricWriter`.
        """
        self._writer = MetricWriter(run.metrics_path, run.tensorboard, resume_at_update)
        self._report = report
        self._lines: list[Line] = []

    def write(self, update: int, env_steps: int, values: Mapping[str, float]) -> None:
        """Write a line.

        Raises:
            DataError: the disk is full or the folder cannot be written.
        """
        self._writer.write(update, env_steps, values)
        line = {"update": update, "env_steps": env_steps, **values}
        self._report(line)
        self._lines.append(line)

    def report_progress(self, share: float) -> None:
        """Report, with a line, how much of the run is done, 0 to 1; no file has it."""
        self._report({"progress": share, "last_line": time.time()})

    def new_lines(self) -> list[Line]:
        """Return the lines written since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def close(self) -> None:
        """Close the TensorBoard file."""
        self._writer.close()


def process_memory() -> float:
    """Return the resident memory of this process, GiB."""
    return float(psutil.Process().memory_info().rss / 2**30)
