"""Kinds of run: who is asked about which, and what each says of itself. Loops and plans have tests of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prelar_ray.config import RunConfig, load_config
from prelar_ray.errors import ConfigError, UsageError
from prelar_ray.kinds import KINDS, find_kind, kind_of
from prelar_ray.kinds.finetune import Finetune
from prelar_ray.kinds.kind import Cost
from prelar_ray.kinds.pretrain import Pretrain
from prelar_ray.kinds.rllib import RLlib


def config(*overrides: str) -> RunConfig:
    return load_config("tiny", None, list(overrides))


def test_every_phase_and_method_has_one_kind() -> None:
    assert isinstance(kind_of(config(), "pretrain"), Pretrain)
    assert isinstance(kind_of(config(), "finetune"), Finetune)
    assert isinstance(kind_of(config("method=rllib/PPO"), "finetune"), RLlib)
    assert find_kind("record", "prelar") is None
    for kind in KINDS:
        assert find_kind(kind.phase, "rllib/PPO" if not kind.own_networks else "prelar") is kind


@pytest.mark.parametrize(
    ("phase", "overrides", "error", "message"),
    [
        ("pretrain", ["method=rllib/PPO"], UsageError, "learns from scratch, there is nothing to pre-train"),
        ("pretrain", [], ConfigError, "video.path: no video store given"),
        ("finetune", ["env.task=metaworld/reech-v3"], ConfigError, "env.task=metaworld/reech-v3"),
        ("finetune", ["method=rllib/PPO", "env.task=metaworld/reech-v3"], ConfigError, "env.task=metaworld/reech-v3"),
    ],
)
def test_what_can_never_work_is_refused(phase: str, overrides: list[str], error: type[Exception], message: str) -> None:
    settings = config(*overrides)
    with pytest.raises(error, match=message):
        kind_of(settings, phase).check(settings)  # type: ignore[arg-type]


def test_only_fine_tuning_starts_from_a_pretraining() -> None:
    for kind in KINDS:
        if not kind.takes_init:
            with pytest.raises(UsageError, match="learns from scratch; leave --init out"):
                kind.find_init(Path("runs/pretrain"), config())
    assert [kind.takes_init for kind in KINDS] == [False, False, True]


def test_progress_is_a_share_and_never_more_than_all() -> None:
    settings = config("pretrain.updates=200", "finetune.env_steps=1000")
    line = {"update": 50, "env_steps": 2000}
    assert kind_of(settings, "pretrain").progress(settings, line) == 0.25
    assert kind_of(settings, "finetune").progress(settings, line) == 1.0
    assert kind_of(settings, "finetune").progress(settings, {}) == 0.0
    assert (
        kind_of(settings, "pretrain").length(settings).unit,
        kind_of(settings, "finetune").length(settings).unit,
    ) == (
        "updates",
        "env steps",
    )


def test_costs_follow_from_the_settings() -> None:
    settings = config(
        "checkpoint.keep_last=2", "finetune.env_steps=1500", "finetune.random_steps=500", "pretrain.updates=7"
    )
    assert kind_of(settings, "pretrain").cost(settings, 1000) == Cost(7, 3 * 12 * 1000, 0)
    found = kind_of(settings, "finetune").cost(settings, 1000)
    assert found is not None
    per_update = settings.finetune.env_steps_per_update
    assert found.updates == settings.finetune.initial_updates + 1000 // per_update
    assert found.replay_bytes == 1500 // settings.env.action_repeat * 64 * 64 * 3
    assert found.disk_bytes == 3 * 12 * 1000 + found.replay_bytes
    assert kind_of(config("method=rllib/PPO"), "finetune").cost(settings, 0) is None


def test_asking_for_a_kind_imports_neither_torch_nor_ray() -> None:
    code = "import sys, prelar_ray.kinds; print([m for m in ('torch', 'ray', 'gymnasium') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
