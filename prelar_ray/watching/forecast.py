"""When a study will be done, from how long its runs took and how fast those that run are."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Sequence

from prelar_ray.storage.records import PlanEntry
from prelar_ray.watching.records import RunStatus

__all__ = ["seconds_left"]


def seconds_left(runs: Sequence[RunStatus], pending: Sequence[PlanEntry]) -> float | None:
    """Return when the last run will have ended if as many run beside each other as do now, seconds.

    Runs that wait start in the order of the plan, and after what they start from. Each takes as long as those of its
    phase and method that have finished or run at a known rate, else as those of its phase.

    Args:
        runs: all that have begun.
        pending: those that have not.

    Returns:
        None where nothing runs, or nothing is known of a run that is left.
    """
    usual = _Usual(runs)
    ends = {run.name: usual.left(run) for run in runs if run.status == "running"}
    waiting: list[tuple[str, float | None, str | None]] = [
        *((run.name, usual.left(run), None) for run in runs if run.status == "interrupted"),
        *((entry.name, usual.whole(entry), entry.init) for entry in pending),
    ]
    free = [end for end in ends.values() if end is not None]  # when each place is free
    if not free or len(free) < len(ends):
        return None
    heapq.heapify(free)
    for name, seconds, init in waiting:
        if seconds is None:
            return None
        end = max(heapq.heappop(free), ends.get(init or "") or 0.0) + seconds
        ends[name] = end
        heapq.heappush(free, end)
    return max(free)


class _Usual:
    """How long runs usually take."""

    def __init__(self, runs: Sequence[RunStatus]) -> None:
        self._known: dict[tuple[str, ...], list[float]] = {}
        for run in runs:
            left = 0.0 if run.status == "finished" else run.seconds_left
            if run.seconds is not None and left is not None:
                for key in ((run.phase,), (run.phase, run.method)):
                    self._known.setdefault(key, []).append(run.seconds + left)

    def whole(self, run: RunStatus | PlanEntry) -> float | None:
        """Return how long a run takes from its begin to its end; None where no such run is known."""
        known = self._known.get((run.phase, run.method)) or self._known.get((run.phase,))
        return statistics.median(known) if known else None

    def left(self, run: RunStatus) -> float | None:
        """Return how long a run that has begun still takes: by its own rate, or else by what is usual."""
        if run.seconds_left is not None:
            return run.seconds_left
        whole = self.whole(run)
        return None if whole is None else whole * (1.0 - (run.progress or 0.0))
