"""Functions on tensors of a GPU as CUDA graphs, for updates and for acting."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["capture_graph", "capture_stream", "why_not_captured"]

T = TypeVar("T")


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which all captures of a device happen: libraries keep a workspace for each stream they see."""
    return torch.cuda.Stream(device)


@contextmanager
def capture_stream(device: torch.device) -> Iterator[None]:
    """Launch work in the block after all that was launched before it, and before all that is launched after it."""
    stream, current = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def capture_graph(
    function: Callable[[], T], device: torch.device, generator: torch.Generator | None = None
) -> tuple[Callable[[], None], T]:
    """Record the kernels that ``function`` launches; within :func:`capture_stream`, after calls that warmed it up.

    Args:
        function: asks nothing of the host (tests/learning/device_rule.py).
        device: where it computes.
        generator: what it draws from besides torch's own generator.

    Returns:
        The replay, and what ``function`` returned: tensors that a replay fills.

    Raises:
        RuntimeError: it does what cannot be captured, such as waiting for the device, or memory is short.
    """
    gc.collect()  # graphs of policies that are gone: one destroyed during a capture would break it
    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)
    # Other threads may use the device meanwhile: the one that writes checkpoints, NCCL's watchdog.
    with torch.cuda.graph(graph, stream=_stream(device), capture_error_mode="thread_local"):
        result = function()
    return graph.replay, result


def why_not_captured(error: BaseException) -> str:
    """Return the first line of the error that broke a capture; ending it raises another one."""
    cause = error
    while cause.__context__ is not None:
        cause = cause.__context__
    return str(cause).strip().partition("\n")[0]
