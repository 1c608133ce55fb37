"""torch.compile for the expensive parts of an update. Results differ from eager execution only by rounding."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

from prelar_ray.errors import ResourceError
from prelar_ray.models.rssm import RSSM
from prelar_ray.models.world_model import PretrainWorldModel, WorldModel

__all__ = ["check_compiler", "compile_networks", "compiled", "eagerly"]

Function = TypeVar("Function", bound=Callable[..., Any])


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
    """Compile ``function`` at its first call; of a loop over time it is one step, for unrolled ones take minutes.

    Later processes reuse the result from torch's cache on disk.
    """
    result: Function = torch.compile(function)  # type: ignore[assignment]
    return result


def compile_networks(model: WorldModel) -> None:
    """Compile convolutions and the steps of the scan over time of ``model``, in place."""
    model.encoder.compile()
    model.decoder.compile()
    if isinstance(model, PretrainWorldModel) and model.inverse_dynamics is not None:
        model.inverse_dynamics.trunk.compile()
    for part in model.modules():
        if isinstance(part, RSSM):
            part.filter_step = compiled(part.filter_step)  # type: ignore[method-assign]


def eagerly(enabled: bool) -> AbstractContextManager[Any]:
    """Return a context in which compiled functions run eagerly, for batches of shapes not worth compiling.

    The context does nothing if ``enabled`` is false, for importing the compiler takes seconds.
    """
    if not enabled:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
