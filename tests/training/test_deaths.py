from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from prelar_ray.errors import (
    RoleDied,
)
from prelar_ray.storage.run_folder import RunFolder
from prelar_ray.training.local_backend import LocalBackend
from tests.training.runs import (
    COLLECTOR,
    LEARNER,
    Mortal,
    Run,
    assert_every_episode_once,
    is_dead,
    numbers_by_env,
)

pytestmark = pytest.mark.usefixtures("short_episodes")


@pytest.mark.parametrize("synchronous", ["true", "false"])
def test_a_collector_that_dies_is_replaced_and_costs_its_open_episodes_only(
    run: Run, caplog: pytest.LogCaptureFixture, synchronous: str
) -> None:
    backend = Mortal(COLLECTOR, "collect", 3)
    folder = run(
        "run",
        f"collect.synchronous={synchronous}",
        "collect.collectors=2",
        "finetune.random_steps=120",
        "finetune.env_steps=160",
        backend=lambda: backend,
    )
    assert backend.stopped == [COLLECTOR]
    assert backend.started.count(COLLECTOR) == 2
    assert "collector-0 died: killed; it is replaced" in caplog.text
    summary = RunFolder.open(folder.path).info["summary"]
    assert summary["env_steps"] >= 160
    assert summary["updates"] == 2 + (summary["env_steps"] - 120) // 5
    assert_every_episode_once(folder)
    assert numbers_by_env(folder).keys() == {"env0000", "env0001", "env0002", "env0003"}


def test_a_collector_that_hangs_while_it_makes_its_environments_is_replaced(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(Mortal):
        """The first collector never answers; the others are processes too."""

        parallel = True

        def wait(self, futures: Any, timeout: float) -> list[Any]:
            rest = [future for future in futures if not is_dead(future)]
            return LocalBackend.wait(self, rest, timeout) if rest else []

        def get(self, future: Any) -> Any:
            assert not is_dead(future), "nobody waits for it without an end"
            return super().get(future)

    monkeypatch.setattr("prelar_ray.training.collectors.time.monotonic", itertools.count(step=20).__next__)
    backend = Hanging(COLLECTOR, "episode_steps")
    folder = run("run", "collect.timeout=50", "evaluation.timeout=100000", backend=lambda: backend)
    assert "waiting for collector-0, which makes its environments" in caplog.text
    wanted = "collector-0 died: no answer for 170 s while it made its environments (collect.timeout); it is replaced"
    assert wanted in caplog.text
    assert backend.stopped[0] == COLLECTOR
    assert folder.info["status"] == "finished"


def test_without_its_learner_a_run_fails(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RoleDied, match="learner died"):
        run("run", "collect.synchronous=true", backend=lambda: Mortal(LEARNER, "update", 4))
    assert RunFolder.open(tmp_path / "run").info["status"] == "failed"
