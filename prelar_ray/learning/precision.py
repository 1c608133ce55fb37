"""Number formats of an update: float32, or autocast to a half-width format with sensitive operations in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

__all__ = ["FULL", "Precision", "has_bfloat16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16 matrices natively (emulation is slower)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class Precision:
    """Autocast for forward passes, and loss scaling where gradients could underflow (float16)."""

    def __init__(self, name: str, device: torch.device, parameters: torch.dtype) -> None:
        """Choose the number format.

        Args:
            name: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 where the hardware has it.
            parameters: dtype of the parameters; autocast starts from float32 only, so float64 stays as it is.
        """
        if name == "auto":
            name = "bfloat16" if has_bfloat16(device) else "float32"
        self.dtype = _DTYPES[name] if parameters == torch.float32 else parameters
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of a forward pass."""
        half = self.dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self.device.type, self.dtype, enabled=half)

    def backward(self, loss: Tensor) -> None:
        """Backpropagate ``loss``, scaled where needed; the optimisers undo the scale."""
        self.scaler.scale(loss).backward()

    def finish_update(self) -> dict[str, Tensor]:
        """Adapt the loss scale after all optimisers stepped; return it as a metric where there is one."""
        if not self.scaler.is_enabled():
            return {}
        self.scaler.update()
        return {"precision/loss_scale": torch.tensor(self.scaler.get_scale(), device=self.device)}

    def state_dict(self) -> dict[str, Any]:
        """Loss scale and its history; empty without one."""
        return dict(self.scaler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`; a state of another format is ignored, because its scale does not apply."""
        if state and self.scaler.is_enabled():
            self.scaler.load_state_dict(state)


FULL = Precision("float32", torch.device("cpu"), torch.float32)
"""No autocast and no loss scale, on any device and for any dtype of the parameters."""
