"""Counts of an update: floating-point operations, bytes, operators, launches of kernels, host syncs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import Row

__all__ = ["OperatorCount", "counted"]

HOST_SYNCS = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero"}
MOVE_NOTHING = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::_unsafe_view"}


class OperatorCount(TorchDispatchMode):
    """Counts operators, the bytes of the tensors they read and write, and host syncs.

    Launches are operators that are neither views nor allocations. Bytes are those of eager execution without caches
    between operators; views move nothing. Copies to the host are seen only on a GPU.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = 0
        self.launches = 0
        self.host_syncs = 0
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count ``func`` and run it."""
        name = func.overloadpacket._qualified_op_name
        self.operators += 1
        self.host_syncs += name in HOST_SYNCS or _asks_the_device(name, args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        if not func.is_view and name not in MOVE_NOTHING:
            self.launches += 1
            touched = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in touched)
        return result


def _asks_the_device(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operator syncs: a copy leaves the device, or an index is a mask whose true entries must be counted."""
    if name == "aten::_to_copy":
        target = kwargs.get("device")
        return target is not None and torch.device(target).type == "cpu" and args[0].device.type != "cpu"
    if name in ("aten::index", "aten::index_put", "aten::index_put_"):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return False


def counted(run: Callable[[], object]) -> Row:
    """Run eagerly and return ``tflop`` (matrix products and convolutions, both directions), bytes and counts."""
    with FlopCounterMode(display=False) as flops, OperatorCount() as operators:
        run()
    return {
        "tflop": flops.get_total_flops() / 1e12,
        "gigabytes": operators.bytes / 1e9,
        "operators": operators.operators,
        "launches": operators.launches,
        "host_syncs": operators.host_syncs,
    }
