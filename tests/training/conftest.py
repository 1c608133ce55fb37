from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prelar_ray.checkpoint.store import load_checkpoint
from prelar_ray.config import RunConfig, load_config, to_yaml
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.finetuning import finetune
from prelar_ray.training.local_backend import LocalBackend
from prelar_ray.training.replays import Insertion, ReplayGroup
from tests.training.runs import Events, Run


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
def run(minute_config: RunConfig, tmp_path: Path) -> Run:
    """Fine-tune for 80 steps, 60 of them random, and 2 + 4 updates; return the run folder."""

    def run(
        name: str = "run",
        *overrides: str,
        resume: bool = False,
        init: Path | None = None,
        backend: Callable[[], LocalBackend] = LocalBackend,
    ) -> RunFolder:
        config = load_config(None, None, overrides, base=minute_config)
        folder = RunFolder.create(tmp_path / name, to_yaml(config), "finetune", resume)
        finetune(config, folder, backend, init, resume)
        return folder

    return run


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """What the replay was asked for, with the environment steps and updates it had counted afterwards."""
    seen: Events = []
    inserted, sample = ReplayGroup.inserted, ReplayGroup.sample

    def inserting(self: ReplayGroup, insertion: Insertion) -> None:
        inserted(self, insertion)
        seen.append(("insert", self.limiter.env_steps, self.limiter.updates))

    def sampling(self: ReplayGroup, updates: int = 1) -> Any:
        parts = sample(self, updates)
        seen.append(("sample", self.limiter.env_steps, self.limiter.updates))
        return parts

    monkeypatch.setattr(ReplayGroup, "inserted", inserting)
    monkeypatch.setattr(ReplayGroup, "sample", sampling)
    return seen


@pytest.fixture
def during_update(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Do something in the middle of one update, between world model and behaviour."""
    from prelar_ray.learning.behaviour import BehaviourLearner

    original = BehaviourLearner.update

    def at(number: int, act: Callable[[], None]) -> None:
        counted = itertools.count(1)

        def updating(self: BehaviourLearner, *args: Any) -> Any:
            if next(counted) == number:
                act()
            return original(self, *args)

        monkeypatch.setattr(BehaviourLearner, "update", updating)

    return at
