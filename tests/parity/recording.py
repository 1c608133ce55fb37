"""Look into an update without changing it: gradients, metrics in full precision, and results of inner functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest import mock

from torch import Tensor

from prelar_ray.learning.optimizers import Optimizer
from prelar_ray.learning.precision import FULL, Precision
from prelar_ray.learning.running_mean import RunningMean


class Call(NamedTuple):
    """Arguments and result of one call."""

    args: tuple[Any, ...]
    result: Any


@dataclass
class Recording:
    """What happened inside the context."""

    calls: dict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))
    """Calls by function name, in order."""
    metrics: list[dict[str, Tensor]] = field(default_factory=list)
    """What each update reported, before it is rounded to float32 for the log."""
    gradients: dict[Tensor, Tensor] = field(default_factory=dict)
    """By parameter, before clipping, of the first step of its optimiser."""

    def results(self, name: str, owner: object = None) -> list[Any]:
        """Results of a function; of a method, only those on ``owner``."""
        return [call.result for call in self.calls[name] if owner is None or call.args[0] is owner]


@contextmanager
def recording(*functions: tuple[Any, str]) -> Iterator[Recording]:
    """Record optimiser steps, metrics, and calls of ``functions``, given as (module or class, name)."""
    seen = Recording()

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            seen.calls[name].append(Call(args, result))
            return result

        return watched

    original_step = Optimizer.step

    def step(self: Optimizer, precision: Precision = FULL) -> Tensor:
        for parameter in self.parameters:
            assert parameter.grad is not None
            seen.gradients.setdefault(parameter, parameter.grad.clone())
        return original_step(self, precision)

    def add(self: RunningMean, update: int, values: dict[str, Tensor]) -> None:
        seen.metrics.append(values)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Optimizer, "step", step))
        stack.enter_context(mock.patch.object(RunningMean, "add", add))
        for place, name in functions:
            stack.enter_context(mock.patch.object(place, name, watch(name, getattr(place, name))))
        yield seen
