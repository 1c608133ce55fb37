"""Distributed PreLAR: world models pre-trained on action-free video, fine-tuned with Ray."""

import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prelar_ray.api import Agent, Latents, LoadedRun, finetune, latents, load_run, pretrain
    from prelar_ray.config import RunConfig, load_config
    from prelar_ray.video.store import VideoStore
    from prelar_ray.video.writer import VideoWriter

__all__ = [
    "Agent",
    "Latents",
    "LoadedRun",
    "RunConfig",
    "VideoStore",
    "VideoWriter",
    "finetune",
    "latents",
    "load_config",
    "load_run",
    "pretrain",
]

_HOMES = {
    **dict.fromkeys(("RunConfig", "load_config"), "prelar_ray.config"),
    "VideoStore": "prelar_ray.video.store",
    "VideoWriter": "prelar_ray.video.writer",
}
"""Module of each public name; the others are in :mod:`prelar_ray.api`."""

# Threads that spin while they wait cost several times their gain as soon as another process wants the core. OpenMP
# reads this when torch is loaded, so it is set before anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    __version__ = version("prelar-ray")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0.0.0"


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: PyTorch takes seconds, which commands like ``--help`` do without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "prelar_ray.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
