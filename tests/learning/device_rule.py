"""What an update may not do, so that it can be captured as one CUDA graph and repeated bit by bit; no GPU is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["OffDevice", "only_on_device"]

FROM_HOST = {"aten::lift_fresh", "aten::lift_fresh_copy", "aten::lift"}
"""Make a tensor from numbers of the host; ``full`` and ``scalar_tensor`` do not, they fill one on the device."""


UNORDERED = {
    *(f"aten::{kind}_pad{n}d_backward" for kind in ("reflection", "replication") for n in (1, 2, 3)),
    *("aten::scatter_add", "aten::scatter_add_", "aten::index_add", "aten::index_add_", "aten::put_"),
    *("aten::_adaptive_avg_pool2d_backward", "aten::avg_pool3d_backward", "aten::grid_sampler_2d_backward"),
    *("aten::upsample_bilinear2d_backward", "aten::embedding_dense_backward"),
}
"""Add with atomic operations on a GPU, in an order that differs between calls
(``torch.use_deterministic_algorithms``)."""


class OffDevice(AssertionError):
    """An operator that needs the host, or whose result on a GPU differs between calls."""


@contextmanager
def only_on_device() -> Iterator[None]:
    """Forbid operators that a captured update cannot have.

    These make a tensor from numbers of the host, read one back, have a shape that depends on values on the device, add
    in any order, or forget to name the device: tensors made without one have no data here.

    Raises:
        OffDevice: names the operator.
    """
    with torch.device("meta"), _Rule():
        yield


class _Rule(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if reason := _reason(func, args, kwargs):
            raise OffDevice(f"{func}: {reason}")
        return func(*args, **kwargs)


def _reason(func: Any, args: Any, kwargs: Mapping[str, Any]) -> str:
    name = func.overloadpacket._qualified_op_name
    tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    if name in FROM_HOST:
        return "makes a tensor from numbers of the host"
    two_terms = name.startswith("aten::scatter_add") and args[2].shape[args[1]] <= 2  # a + b is b + a
    if name in UNORDERED and not two_terms:
        return "adds in any order on a GPU"
    if torch.Tag.data_dependent_output in func.tags:
        return "reads a value back to the host"
    if name in ("aten::index", "aten::index_put", "aten::index_put_"):
        if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
            return "has a shape that depends on a mask"
    elif torch.Tag.dynamic_output_shape in func.tags:
        return "has a shape that depends on values"
    if any(tensor.device.type == "meta" for tensor in tensors):
        return "has an input that was made without naming the device"
    return ""
