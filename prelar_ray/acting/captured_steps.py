"""A policy's step as a CUDA graph: recorded once per number of environments, replayed without launching its kernels."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prelar_ray.learning.cuda_graphs import capture_graph, capture_stream, why_not_captured
from prelar_ray.types import Frames, Vectors

if TYPE_CHECKING:
    from prelar_ray.acting.policy import ActingNoise, PolicyState

__all__ = ["CapturedSteps", "capture_step"]

KEPT = 4
"""Recordings kept, of the numbers of environments stepped last; each holds the memory of a step."""

WARM_UPS = 3
"""Calls before recording, in which libraries choose their algorithms and allocate."""

TensorStep = Callable[..., "PolicyState"]
"""From frames, first flags, state, Gumbel and uniform noise, and vectors where there are any, to the next state, whose
action is the one to take."""

Capture = Callable[[Callable[[], None], torch.device], Callable[[], None]]
"""From a function on buffers that stay where they are, and their device, to one that does the same again."""

log = logging.getLogger(__name__)


class CapturedSteps:
    """A step with the interface of :meth:`~prelar_ray.acting.policy.Policy.act`, captured at its first call.

    There is one recording per number of environments, and per kind of noise. A state that it returns is overwritten by
    the next step of as many environments. Weights may change in place between steps. Where a capture fails, the reason
    is logged and steps are eager from then on.
    """

    def __init__(self, step: TensorStep, capture: Capture | None = None) -> None:
        """Capture ``step``, on the device of the states that it will be given; ``capture`` defaults to a CUDA graph."""
        self._step, self._capture = step, capture or capture_step
        self._recordings: OrderedDict[tuple[int, bool, bool], _Recording] = OrderedDict()
        self._works = True

    def __call__(
        self,
        image: Frames,
        is_first: npt.NDArray[np.bool_],
        state: PolicyState,
        noise: ActingNoise,
        vector: Vectors | None = None,
    ) -> tuple[npt.NDArray[np.float32], PolicyState] | None:
        """Choose actions; None if steps cannot be captured here."""
        inputs = (image, is_first, *noise, *(() if vector is None else (vector,)))
        recording = self._find(inputs, state) if self._works else None
        return None if recording is None else recording.play(inputs, state)

    def _find(self, inputs: tuple[npt.NDArray[Any] | None, ...], state: PolicyState) -> _Recording | None:
        image, _, gumbel, uniform, *_ = inputs
        assert image is not None
        key = (len(image), gumbel is None, uniform is None)
        if key not in self._recordings:
            try:
                self._recordings[key] = _Recording(self._step, inputs, state, self._capture)
            except RuntimeError as error:
                self._works = False
                self._recordings.clear()
                why = why_not_captured(error)
                log.warning("acting stays eager: capturing its step as a CUDA graph failed (%s)", why)
                return None
        self._recordings.move_to_end(key)
        if len(self._recordings) > KEPT:
            self._recordings.popitem(last=False)
        return self._recordings[key]


class _Recording:
    """A step of a fixed number of rows, on buffers of its own.

    Inputs pass through page-locked memory, from which the device copies by itself; the state stays on the device.
    """

    def __init__(
        self, step: TensorStep, inputs: tuple[npt.NDArray[Any] | None, ...], state: PolicyState, capture: Capture
    ) -> None:
        device, dtype = state.action.device, state.action.dtype
        pinned = device.type == "cuda"
        self._host = [None if array is None else _empty_like(array, pinned) for array in inputs]
        self._inputs = [None if host is None else host.to(device) for host in self._host]
        self._state = state.map(torch.zeros_like)
        self._action = torch.zeros(state.action.shape, dtype=dtype, device="cpu", pin_memory=pinned)

        def run() -> None:
            image, is_first, gumbel, uniform, *vector = self._inputs
            assert image is not None
            assert is_first is not None
            found = step(image, is_first, self._state, gumbel, uniform, *vector)
            for buffer, value in zip(self._state.tensors, found.tensors, strict=True):
                buffer.copy_(value)

        self._replay = capture(run, device)

    def play(
        self, inputs: tuple[npt.NDArray[Any] | None, ...], state: PolicyState
    ) -> tuple[npt.NDArray[np.float32], PolicyState]:
        """One step from ``state``, which is not copied if it is this recording's own."""
        for host, buffer, array in zip(self._host, self._inputs, inputs, strict=True):
            if host is not None and buffer is not None:
                host.numpy()[...] = array
                buffer.copy_(host, non_blocking=True)
        for part, value in zip(self._state.tensors, state.tensors, strict=True):
            if part is not value:
                part.copy_(value)
        self._replay()
        self._action.copy_(self._state.action, non_blocking=True)
        if self._state.action.is_cuda:
            torch.cuda.current_stream().synchronize()  # then the host may read the action, and write new inputs
        return self._action.numpy().astype(np.float32), self._state  # a copy


def capture_step(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Warm a function up and capture it; see :func:`prelar_ray.learning.cuda_graphs.capture_graph`."""
    with capture_stream(device):
        for _ in range(WARM_UPS):
            function()
        replay, _ = capture_graph(function, device)
    return replay


def _empty_like(array: npt.NDArray[Any], pinned: bool) -> Tensor:
    return torch.zeros(array.shape, dtype=torch.from_numpy(array[:0]).dtype, device="cpu", pin_memory=pinned)
