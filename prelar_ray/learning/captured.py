"""An update as one CUDA graph: the host launches it whole instead of thousands of kernels one by one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["EAGER_FIRST", "CapturedUpdate", "Compute", "CudaGraphs", "Graphs"]

Values = dict[str, Tensor]
Compute = Callable[..., Values]
"""An update from tensors on the device to metrics: it asks nothing of the host (tests/learning/device_rule.py)."""

EAGER_FIRST = 3
"""Updates before the capture; they do what happens once: autotuning, compilation, the optimisers' moments."""

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
        self.forget()

    def forget(self) -> None:
        """Drop the graph; another one is captured after some updates."""
        self._replay: Callable[[], Values] | None = None
        self._inputs: list[Tensor] = []
        self._updates = 0

    def __call__(self, *inputs: Tensor) -> Values:
        """Update; the values are valid until the next call."""
        with self.graphs.stream():
            self._updates += 1
            if self._replay is None and self._updates > EAGER_FIRST and not self._failed:
                self._capture(inputs)
            if self._replay is None:
                return self.compute(*inputs)
            if [x.shape for x in self._inputs] != [x.shape for x in inputs]:
                return self.other(*inputs)
            for own, given in zip(self._inputs, inputs, strict=True):
                own.copy_(given)
            return self._replay()

    def _capture(self, inputs: Sequence[Tensor]) -> None:
        own = [x.clone() for x in inputs]
        try:
            self._replay = self.graphs.capture(self.compute, own)
        except Exception as error:
            self._failed = True
            self.undo()
            if self.must:
                raise
            reason = str(error).strip().partition("\n")[0]
            log.warning("updates stay eager: capturing one as a CUDA graph failed (%s)", reason)
        else:
            self._inputs = own


class CudaGraphs:
    """Captures on a stream of its own."""

    def __init__(self, generator: torch.Generator) -> None:
        """``generator`` is what functions draw from besides torch's own; it says the device."""
        self.generator, self.device = generator, generator.device
        self._stream = torch.cuda.Stream(self.device)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Work on the own stream, after all that was launched before, and before all that is launched after."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def capture(self, compute: Compute, inputs: Sequence[Tensor]) -> Callable[[], Values]:
        """See :meth:`Graphs.capture`; what it takes is logged."""
        began, before = time.perf_counter(), torch.cuda.memory_reserved(self.device)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        # Other threads may use the device meanwhile: the one that writes checkpoints, NCCL's watchdog.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            values = compute(*inputs)
        seconds, memory = time.perf_counter() - began, torch.cuda.memory_reserved(self.device) - before
        log.info("captured an update as a CUDA graph: %.1f s, %+.2f GiB", seconds, memory / 2**30)

        def replay() -> Values:
            graph.replay()
            return values

        return replay
