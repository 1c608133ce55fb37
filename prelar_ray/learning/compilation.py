"""torch.compile for the expensive parts of an update. Results differ from eager execution only by rounding."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from prelar_ray.errors import ResourceError
from prelar_ray.learning.captured import Compute
from prelar_ray.models.discount_head import DiscountHead
from prelar_ray.models.rssm import RSSM
from prelar_ray.models.two_hot import TwoHotMLP
from prelar_ray.models.world_model import WorldModel

__all__ = ["check_compiler", "compile_networks", "compiled", "compiles", "eagerly", "or_eagerly"]

Function = TypeVar("Function", bound=Callable[..., Any])

log = logging.getLogger(__name__)


def compiles(wanted: bool | Literal["auto"], device: torch.device) -> bool:
    """Whether networks are compiled; ``auto`` compiles on a GPU, where launching small kernels costs the most."""
    return device.type == "cuda" if wanted == "auto" else wanted


def check_compiler() -> None:
    """Check that the C++ compiler that torch.compile needs is installed.

    Raises:
        ResourceError: it is not.
    """
    named = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([named] if named else ["g++", "clang++"])):
        wanted = f"CXX={named} is not there" if named else "no g++ or clang++ found"
        raise ResourceError(f"compile=true: {wanted}; install one (sudo apt-get install g++), or use compile=false")


def compiled(function: Function) -> Function:
    """Compile ``function`` for the shapes that it is called with; torch caches the results on disk."""
    result: Function = torch.compile(function, dynamic=False)  # type: ignore[assignment]
    return result


def compile_networks(model: WorldModel, heads: Iterable[nn.Module] = ()) -> None:
    """Compile convolutions, the steps of the scan over time, and ``heads``, in place.

    A loop over time is compiled by its step: unrolled, it takes minutes.
    """
    parts = [part for part in (model.encoder, model.decoder, *heads) if part is not None]
    if model.inverse_dynamics is not None:
        parts.append(model.inverse_dynamics.trunk)
    for part in parts:
        part.compile(dynamic=False)  # symbolic shapes would make slower kernels, and batches have one shape
        if isinstance(part, TwoHotMLP | DiscountHead):
            part.loss = compiled(part.loss)  # type: ignore[method-assign]
    for module in model.modules():
        if isinstance(module, RSSM):
            module.filter_step = compiled(module.filter_step)  # type: ignore[method-assign]


def or_eagerly(compute: Compute, undo: Callable[[], object]) -> Compute:
    """Return ``compute`` that, where compiling fails, says why and continues without.

    That update is made again from its beginning. What its first half has learnt by then, it learns twice.

    Args:
        undo: removes what a pass that was broken off leaves behind.
    """

    def run(*inputs: Tensor) -> dict[str, Tensor]:
        try:
            return compute(*inputs)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = " ".join(str(error).split("\n")[:2])  # the first names the backend, the second the cause
            log.warning("updates run uncompiled: torch.compile failed (%s)", reason)
            torch.compiler.set_stance("force_eager")
            undo()
            return compute(*inputs)

    return run


def eagerly(enabled: bool) -> AbstractContextManager[Any]:
    """Return a context in which compiled functions run eagerly, for batches of shapes not worth compiling.

    The context does nothing if ``enabled`` is false, for importing the compiler takes seconds.
    """
    if not enabled:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
