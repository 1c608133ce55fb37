"""Recording as tasks of a Ray: the bytes of a local recording, and failures named by episode."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from prelar_ray.config import RunConfig, load_config
from prelar_ray.distributed import recording
from prelar_ray.distributed.connection import connected
from prelar_ray.distributed.recording import TaskPool, record_on_ray, roll_on_ray
from prelar_ray.errors import ConfigError, EnvironmentFailure
from prelar_ray.video.actions import actions_path
from prelar_ray.video.episodes import EpisodeId, all_episodes
from prelar_ray.video.recorder import record


def configure(*changes: str) -> RunConfig:
    tasks = "record.tasks=[prelar/point-reach,prelar/point-reach]"
    return load_config("tiny", None, [tasks, "record.policy=mixed", "record.shard_frames=300", *changes])


def files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()} | {"actions": actions_path(store).read_bytes()}


@pytest.mark.cluster
def test_tasks_record_the_same_bytes_and_name_the_episode_that_fails(
    shared_ray: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = configure("record.episodes_per_task=3", "record.workers=1")
    on_ray = few.model_copy(update={"cluster": shared_ray.address})
    on_ray = on_ray.model_copy(update={"record": on_ray.record.model_copy(update={"workers": 2})})
    record(few, tmp_path / "local", lambda frames: None)
    record_on_ray(on_ray, tmp_path / "ray", lambda frames: None)
    assert files(tmp_path / "ray") == files(tmp_path / "local")

    with connected(on_ray):
        cameras = on_ray.model_copy(update={"env": on_ray.env.model_copy(update={"camera": "1"})})
        with pytest.raises(ConfigError, match="has no cameras"):
            next(roll_on_ray(cameras, all_episodes(cameras), lambda frames: None))
        monkeypatch.setattr(recording, "_task", ray.remote(endless(tmp_path / "pid")))
        pool = TaskPool(on_ray, 1)
        pool.ask(all_episodes(on_ray)[1])
        os.kill(int(eventually(tmp_path / "pid")), signal.SIGKILL)
        episode, failure = pool.receive()
        pool.close()
    assert episode == all_episodes(on_ray)[1]
    assert isinstance(failure, EnvironmentFailure)
    assert str(failure).startswith("prelar/point-reach, episode 1: its task died: ")


def endless(pid: Path) -> Callable[[RunConfig, EpisodeId], None]:
    """Return a task that says in which process it is and rolls for ever."""

    def roll(config: RunConfig, episode: EpisodeId) -> None:
        pid.with_suffix(".new").write_text(str(os.getpid()))
        pid.with_suffix(".new").rename(pid)
        time.sleep(3600)

    return roll


def eventually(file: Path) -> str:
    """Wait for a file and return what it holds."""
    for _ in range(2400):
        if file.exists():
            return file.read_text()
        time.sleep(0.05)
    raise AssertionError(f"no {file.name} in 120 s")
