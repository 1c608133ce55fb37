"""How long updates take, and how long the learner waits between them."""

from __future__ import annotations

import time

import torch

__all__ = ["UpdateClock"]

Mark = float | torch.cuda.Event

UNREAD = 8
"""Spans that are kept as marks: those of updates that a GPU may not have finished."""


class UpdateClock:
    """Times updates where they run: on a GPU from its own events, for the host only launches them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._ended: Mark | None = None
        self._spans: dict[str, list[tuple[Mark, Mark]]] = {"update": [], "wait": []}
        self._seconds = dict.fromkeys(self._spans, 0.0)
        self._updates = 0
        self._replays = self._replays_read = 0

    def start(self) -> None:
        """An update begins, and the wait for its batch ends."""
        self._began = self._mark()
        if self._ended is not None:
            self._spans["wait"].append((self._ended, self._began))

    def stop(self, replays: int = 0) -> None:
        """It has ended, or been launched whole; so many updates replayed a graph until now."""
        self._ended = self._mark()
        self._spans["update"].append((self._began, self._ended))
        self._updates += 1
        self._replays = replays
        self._sum(UNREAD)

    def read(self) -> dict[str, float]:
        """Return mean seconds of an update, and of the wait before it, since the last call; empty without updates.

        On a GPU also its busy share, the share of updates that were one launch each, and the memory in use.
        """
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._sum(0)
        updates, seconds = self._updates, self._seconds
        self._ended, self._updates, self._seconds = None, 0, dict.fromkeys(seconds, 0.0)
        replays, self._replays_read = self._replays - self._replays_read, self._replays
        if not updates:
            return {}
        values = {"time/update": seconds["update"] / updates, "time/wait_for_data": seconds["wait"] / updates}
        if self.device.type == "cuda":
            values["gpu/busy"] = seconds["update"] / (seconds["update"] + seconds["wait"])
            values["gpu/replayed"] = replays / updates
            values["gpu/memory"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return values

    def _mark(self) -> Mark:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _sum(self, keep: int) -> None:
        """Add up all spans but the last ``keep``."""
        for kind, spans in self._spans.items():
            while len(spans) > keep:
                self._seconds[kind] += _between(*spans.pop(0))


def _between(begin: Mark, end: Mark) -> float:
    if isinstance(begin, float) and isinstance(end, float):
        return end - begin
    assert isinstance(begin, torch.cuda.Event)
    assert isinstance(end, torch.cuda.Event)
    return begin.elapsed_time(end) / 1000
