"""The user's cache folder: what can be made again, and that is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(name: str) -> Path:
    """Return the folder ``name`` of this package in the user's cache (``XDG_CACHE_HOME``); it may not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "prelar_ray" / name
