from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest

from prelar_ray.config import RunConfig, load_config, preset_names, yaml_text

# PreLAR's supplementary, Table 1. (The images' size and scaling are not settings.)
TABLE_1 = {
    "pretrain.segment_length": 25,
    "loss.dynamics_kl_weight": 1,
    "pretrain.optimizer.learning_rate": 3e-4,
    "pretrain.batch_size": 16,
    "pretrain.updates": 600_000,
    "loss.consistency_weight": 1,
    "loss.action_kl_weight": 1,
    "finetune.segment_length": 50,
    "finetune.random_steps": 5_000,
    "replay.capacity_steps": 1_000_000,
    "finetune.env_steps_per_update": 5,
    "behaviour.horizon": 15,
    "behaviour.discount": 0.99,
    "behaviour.return_lambda": 0.95,
    "behaviour.entropy_weight": 1e-4,
    "finetune.batch_size": 50,
    "finetune.dynamics_optimizer.learning_rate": 3e-4,
    "finetune.optimizer.learning_rate": 3e-4,
    "behaviour.actor_optimizer.learning_rate": 8e-5,
    "behaviour.critic_optimizer.learning_rate": 8e-5,
    "evaluation.episodes": 10,
}


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def read(name: str) -> tuple[str, dict[str, Any]]:
    text = (resources.files("prelar_ray.config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return text, yaml_text.parse(text)


def test_paper_states_every_value_of_table_1():
    stated = dict(leaves(read("paper")[1]))
    assert {path: stated[path] for path in TABLE_1} == TABLE_1


def test_paper_states_every_key_and_equals_the_defaults():
    stated = dict(leaves(read("paper")[1]))
    assert stated.keys() == dict(leaves(RunConfig().model_dump())).keys()
    assert load_config("paper") == RunConfig()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_its_heading_tells_purpose_and_cost(name: str):
    load_config(name)
    heading = read(name)[0].split("\n\n")[0]
    assert heading.startswith(f"# {name}: ")
    assert "\n# Purpose: " in heading
    assert "\n# Cost: " in heading


def test_demo_has_the_networks_of_tiny_and_records_no_video_of_its_target():
    demo, tiny = load_config("demo"), load_config("tiny")
    assert demo.world_model == tiny.world_model
    assert demo.env.task.startswith("metaworld/")
    assert demo.env.task not in demo.record.tasks
    assert demo.collect.collectors == 2
