from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from prelar_ray.checkpoint.store import Checkpoint, CheckpointStore
from prelar_ray.config import RunConfig
from prelar_ray.errors import RoleDied
from prelar_ray.learning.learner import PretrainLearner
from prelar_ray.roles import RoleId
from prelar_ray.training import restarts
from prelar_ray.training.restarts import RestartPolicy

DEATH = RoleDied(RoleId("learner"), "killed")


class Processes:
    """A backend whose roles are processes; counts how often all were ended."""

    parallel = True

    def __init__(self) -> None:
        self.stopped = 0

    def stop_all(self) -> None:
        self.stopped += 1


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep_last=9)


@pytest.fixture
def save(store: CheckpointStore, minute_config: RunConfig) -> Any:
    state = PretrainLearner(minute_config).state_dict()
    return lambda update: store.save("pretrain", minute_config, update, state, {})


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(restarts.time, "sleep", seconds.append)
    return seconds


def test_roles_restart_at_the_last_checkpoint_and_wait_longer_each_time(
    store: CheckpointStore, save: Any, minute_config: RunConfig, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    backend: Any = Processes()
    policy = RestartPolicy(store, minute_config)
    save(1)
    started: Checkpoint | None = None
    for _ in range(3):
        started = policy.restart(DEATH, backend, started)
        assert started.update == 1
    assert pauses == [2.0, 4.0, 8.0]
    assert backend.stopped == 3
    assert "learner died: killed; all roles restart at the checkpoint of update 1" in caplog.text
    with pytest.raises(RoleDied, match="learner died: killed"):
        policy.restart(DEATH, backend, started)


def test_a_new_checkpoint_in_between_starts_the_count_again(
    store: CheckpointStore, save: Any, minute_config: RunConfig, pauses: list[float]
) -> None:
    backend: Any = Processes()
    policy = RestartPolicy(store, minute_config)
    started: Checkpoint | None = None
    for update in range(1, 7):
        save(update)
        started = policy.restart(DEATH, backend, started)
        assert started.update == update
    assert pauses == [2.0] * 6


def test_without_a_checkpoint_or_processes_a_death_is_final(
    store: CheckpointStore, save: Any, minute_config: RunConfig, pauses: list[float]
) -> None:
    policy = RestartPolicy(store, minute_config)
    backend: Any = Processes()
    with pytest.raises(RoleDied):
        policy.restart(DEATH, backend, None)
    save(1)
    backend.parallel = False
    with pytest.raises(RoleDied):
        policy.restart(DEATH, backend, None)
    assert (backend.stopped, pauses) == (2, [])


def test_a_death_can_cross_processes() -> None:
    death = pickle.loads(pickle.dumps(DEATH))
    assert (str(death), death.role) == (str(DEATH), DEATH.role)
