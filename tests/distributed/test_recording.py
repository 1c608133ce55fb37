"""Recording as tasks of a Ray: the bytes of a local recording, and failures named by episode."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from prelar_ray.config import RunConfig, load_config
from prelar_ray.distributed.ray_backend import connected
from prelar_ray.distributed.recording import record_on_ray, roll_on_ray
from prelar_ray.errors import ConfigError, EnvironmentFailure
from prelar_ray.video.actions import actions_path
from prelar_ray.video.episodes import all_episodes
from prelar_ray.video.recorder import record


def configure(*changes: str) -> RunConfig:
    tasks = "record.tasks=[prelar/point-reach,prelar/point-reach]"
    return load_config("tiny", None, [tasks, "record.policy=mixed", "record.shard_frames=300", *changes])


def files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()} | {"actions": actions_path(store).read_bytes()}


@pytest.mark.cluster
def test_tasks_record_the_same_bytes_and_name_the_episode_that_fails(shared_ray: Cluster, tmp_path: Path) -> None:
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
        rolled = roll_on_ray(on_ray, all_episodes(on_ray), kill_tasks)
        with pytest.raises(EnvironmentFailure, match=r"^prelar/point-reach, episode \d: its task died: "):
            list(rolled)


def kill_tasks(frames: int) -> None:
    """Kill the processes that roll."""
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::_task"):
            process.kill()
