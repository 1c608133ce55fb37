"""Batches from the host to the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Transfer"]

Array = npt.NDArray[Any]

AHEAD = 2
"""Batches that may be on a GPU and not yet learnt from; the host waits before it copies one more."""


class Transfer:
    """Copies batches to the device as they are, uint8 included.

    To a GPU they go through pinned buffers on a stream of their own, while updates compute. Arrays may be read-only, as
    those in shared memory are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._on_gpu = device.type == "cuda"
        if self._on_gpu:
            self._stream = torch.cuda.Stream(device)
            self._slots = [_Slot() for _ in range(AHEAD)]

    def __call__(self, arrays: Sequence[Array]) -> list[Tensor]:
        """Return the arrays as tensors on the device; on a GPU they are valid until :meth:`release` is called twice."""
        if not self._on_gpu:
            # torch does not support read-only arrays; copy those.
            return [torch.from_numpy(x if x.flags.writeable else x.copy()) for x in arrays]
        slot = self._slots[0]
        slot.released.synchronize()
        with torch.cuda.stream(self._stream):
            slot.fit(arrays, self.device)  # here: memory of another stream may still be in use there
            for pinned, placed, array in zip(slot.pinned, slot.placed, arrays, strict=True):
                pinned.numpy()[...] = array
                placed.copy_(pinned, non_blocking=True)
        torch.cuda.current_stream(self.device).wait_stream(self._stream)
        return slot.placed

    def release(self) -> None:
        """Say that all work that needs the batch of the last call has been launched."""
        if self._on_gpu:
            slot = self._slots.pop(0)
            slot.released.record(torch.cuda.current_stream(self.device))
            self._slots.append(slot)


class _Slot:
    """Buffers of one batch; they grow to the shapes that come."""

    def __init__(self) -> None:
        self.pinned: list[Tensor] = []
        self.placed: list[Tensor] = []
        self.released = torch.cuda.Event(blocking=True)

    def fit(self, arrays: Sequence[Array], device: torch.device) -> None:
        likes = [torch.from_numpy(x[:0].copy()) for x in arrays]
        forms = [(tuple(array.shape), like.dtype) for array, like in zip(arrays, likes, strict=True)]
        if [(tuple(x.shape), x.dtype) for x in self.pinned] == forms:
            return
        self.pinned = [x.new_empty(a.shape, pin_memory=True) for x, a in zip(likes, arrays, strict=True)]
        self.placed = [torch.empty_like(x, device=device) for x in self.pinned]
