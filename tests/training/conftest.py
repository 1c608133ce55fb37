from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.errors import RoleDied


def _differences(one: Any, two: Any, path: str) -> list[str]:
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        return [line for key in one for line in _differences(one[key], two[key], f"{path}.{key}")]
    if isinstance(one, list | tuple):
        assert len(one) == len(two), path
        return [
            line for i, pair in enumerate(zip(one, two, strict=True)) for line in _differences(*pair, f"{path}.{i}")
        ]
    same = torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
    return [] if same else [path]


@pytest.fixture(scope="session")
def assert_same_state() -> Callable[[Path, Path], None]:
    """Two checkpoints hold the same learner bit for bit: parameters, optimisers, generators, counters."""

    def check(one: Path, two: Path) -> None:
        states = [load_checkpoint(path).state for path in (one, two)]
        assert _differences(*states, "state") == []

    return check


@pytest.fixture
def learner_dies(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    """Lets a learner's role, of the given class, be dead when a checkpoint is asked of it."""

    def dying(*_: Any) -> None:
        raise RoleDied("learner", "killed")

    return lambda role: monkeypatch.setattr(role, "save", dying)
