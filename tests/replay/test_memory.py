from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import ResourceError
from prelar_ray.replay import memory, shard
from prelar_ray.replay.memory import replay_bytes, step_bytes
from prelar_ray.replay.shard import ReplayShard


def config(*overrides: str) -> RunConfig:
    return load_config("tiny", None, list(overrides))


def test_the_limit_of_a_control_group_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(path: Path, *arguments: Any) -> str:
        return "1000\n" if path.name == "memory.max" else "max"

    monkeypatch.setattr(Path, "read_text", read_text)
    assert memory.memory_limit() == 1000


def test_the_replay_takes_its_capacity_or_the_run_if_that_is_shorter() -> None:
    long = ("finetune.env_steps=900000", "replay.capacity_steps=500000")
    assert memory.replay_bytes(config(*long)) == 500_000 * 12_288
    assert memory.replay_bytes(config(*long, "finetune.env_steps=300000")) == 300_000 * 12_288
    assert (
        memory.replay_bytes(
            config(*long, "finetune.env_steps=300000", "env.action_repeat=2", "finetune.env_steps_per_update=10")
        )
        == 150_000 * 12_288
    )
    assert memory.replay_bytes(config(*long, "replay.shards=4")) == 125_000 * 12_288


def test_a_replay_that_this_machine_cannot_hold_is_refused_before_anything_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "memory_limit", lambda: memory.GIB)
    long = ("finetune.env_steps=200000", "replay.capacity_steps=200000")
    with pytest.raises(
        ResourceError, match=r"hold 2\.29 GiB of experience, this machine has 1 GiB; .*=43690 takes half"
    ):
        ReplayShard(config(*long), tmp_path / "replay")
    assert not (tmp_path / "replay").exists()
    ReplayShard(config(*long, "replay.capacity_steps=43690"), tmp_path / "replay")


def test_frames_of_128_take_four_times_the_memory() -> None:
    small, large = config(), config("env.image_size=128")
    assert step_bytes(small) == 64 * 64 * 3
    assert step_bytes(large) == 4 * step_bytes(small)
    assert replay_bytes(large) == 4 * replay_bytes(small)
