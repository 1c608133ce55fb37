"""The kernels that an update spends most time in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measuring import Row, synchronise

__all__ = ["largest_kernels"]

WIDTH = 100
"""Letters of a kernel's name that are kept."""


def largest_kernels(run: Callable[[], object], device: torch.device, count: int = 25) -> list[Row]:
    """Run once and return the kernels with the largest sums of time: on a GPU its own, on a CPU torch's operators."""
    run()
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as seen:
        run()
        synchronise(device)

    def microseconds(event: torch.autograd.profiler_util.FunctionEventAvg) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    events = sorted(seen.key_averages(), key=microseconds, reverse=True)
    total = sum(map(microseconds, events))
    rows = [{"name": x.key[:WIDTH], "milliseconds": microseconds(x) / 1e3, "calls": x.count} for x in events[:count]]
    whole = {"name": "all", "milliseconds": total / 1e3, "calls": sum(x.count for x in events)}
    return [whole, *rows]
