"""An update as one CUDA graph: the host launches it whole instead of thousands of kernels one by one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from prelar_ray.errors import ResourceError
from prelar_ray.learning.cuda_graphs import capture_graph, capture_stream, why_not_captured

__all__ = ["EAGER_FIRST", "CapturedUpdate", "Compute", "CudaGraphs", "Graphs"]

Values = dict[str, Tensor]
Compute = Callable[..., Values]
"""An update from tensors on the device to metrics: it asks nothing of the host (tests/learning/device_rule.py)."""

EAGER_FIRST = 3
"""Updates of a shape before its capture; they do what happens once: autotuning, compilation, optimisers' moments."""

log = logging.getLogger(__name__)


class Graphs(Protocol):
    """What captures functions."""

    def stream(self) -> AbstractContextManager[None]:
        """Context in which functions to be captured run, before and after."""

    def capture(self, compute: Compute, inputs: Sequence[Tensor]) -> Callable[[], Values]:
        """Return a function that computes again from what ``inputs`` hold then; capturing itself computes nothing."""


class CapturedUpdate:
    """Runs ``compute``: eagerly at first, then as a graph for batches of one shape.

    Captured and eager updates launch the same kernels on the same numbers. A graph reads and writes tensors where they
    are: parameters may be changed in place, and :meth:`forget` belongs after anything that replaces them.

    Attributes:
        replayed: updates that replayed a graph: the host launched each of them at once.
    """

    def __init__(
        self,
        compute: Compute,
        graphs: Graphs,
        undo: Callable[[], object],
        other: Compute | None = None,
        must: bool = False,
    ) -> None:
        """Set up; captures nothing yet.

        Args:
            compute: the update.
            graphs: captures it.
            undo: removes what a capture that fails leaves behind, such as gradients without values.
            other: computes for batches of other shapes than the captured one; by default ``compute`` does.
            must: raise where the capture fails, instead of continuing eagerly.
        """
        self.compute, self.other = compute, other or compute
        self.graphs, self.undo, self.must = graphs, undo, must
        self._failed = False
        self.replayed = 0
        self.forget()

    def forget(self) -> None:
        """Drop the graph; another one is captured after some updates."""
        self._replay: Callable[[], Values] | None = None
        self._inputs: list[Tensor] = []
        self._shapes: list[torch.Size] = []
        self._updates = 0  # eager ones of these shapes

    def __call__(self, *inputs: Tensor) -> Values:
        """Update; the values are valid until the next call.

        Raises:
            ResourceError: capturing failed, and this version of torch cannot continue eagerly after it.
        """
        shapes = [x.shape for x in inputs]
        with self.graphs.stream():
            if self._replay is None:
                if shapes != self._shapes:
                    self._shapes, self._updates = shapes, 0
                if self._updates == EAGER_FIRST and not self._failed and not self._capture(inputs):
                    return self._continue_eagerly(inputs)
            if self._replay is None:
                self._updates += 1
                return self.compute(*inputs)
            if shapes != self._shapes:
                return self.other(*inputs)
            for own, given in zip(self._inputs, inputs, strict=True):
                own.copy_(given)
            self.replayed += 1
            return self._replay()

    def _capture(self, inputs: Sequence[Tensor]) -> bool:
        own = [x.clone() for x in inputs]
        try:
            self._replay = self.graphs.capture(self.compute, own)
        except Exception as error:
            self._failed = True
            self.undo()
            if self.must:
                raise
            log.warning("updates stay eager: capturing one as a CUDA graph failed (%s)", why_not_captured(error))
            return False
        self._inputs = own
        return True

    def _continue_eagerly(self, inputs: Sequence[Tensor]) -> Values:
        try:
            return self.compute(*inputs)
        except RuntimeError as error:  # generators and memory of some versions stay as if a capture went on
            raise ResourceError(
                f"updates cannot continue after a CUDA graph could not be captured ({error}); use --resume with "
                "learner.graph=never"
            ) from error


class CudaGraphs:
    """Captures updates that draw from a generator, which says the device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator, self.device = generator, generator.device

    def stream(self) -> AbstractContextManager[None]:
        """See :meth:`Graphs.stream`."""
        return capture_stream(self.device)

    def capture(self, compute: Compute, inputs: Sequence[Tensor]) -> Callable[[], Values]:
        """See :meth:`Graphs.capture`; what it takes is logged."""
        began, before = time.perf_counter(), torch.cuda.memory_reserved(self.device)
        again, values = capture_graph(lambda: compute(*inputs), self.device, self.generator)
        seconds, memory = time.perf_counter() - began, torch.cuda.memory_reserved(self.device) - before
        log.info("captured an update as a CUDA graph: %.1f s, %+.2f GiB", seconds, memory / 2**30)

        def replay() -> Values:
            again()
            return values

        return replay
