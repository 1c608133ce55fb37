from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from prelar_ray.config import RunConfig, load_config, preset_names, yaml_text
from prelar_ray.config.reference import SETTINGS, SOURCES, paper_preset, settings_page

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


ROOT = Path(__file__).resolve().parents[2]


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def read(name: str) -> tuple[str, dict[str, Any]]:
    text = (resources.files("prelar_ray.config") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return text, yaml_text.parse(text)


def test_the_preset_paper_is_made_from_the_defaults_and_states_every_key():
    text, stated = read("paper")
    assert text == paper_preset(), "run python -m prelar_ray.config.reference"
    assert dict(leaves(stated)) == dict(leaves(RunConfig().model_dump()))
    assert load_config("paper") == RunConfig()


def test_the_defaults_are_the_values_of_table_1_and_name_it_as_their_source():
    defaults = dict(leaves(RunConfig().model_dump()))
    assert {path: defaults[path] for path in TABLE_1} == TABLE_1
    for path in TABLE_1:
        assert SOURCES.get(path, SOURCES.get(path.rpartition(".")[0], "")).startswith("Table 1: ")


def test_the_page_of_settings_is_up_to_date_and_has_a_row_for_every_setting():
    page = settings_page()
    assert SETTINGS.read_text(encoding="utf-8") == page, "run python -m prelar_ray.config.reference"
    for path in leaves(RunConfig().model_dump()):
        assert page.count(f"\n| `{path[0]}` | `") == 1


def test_a_source_belongs_to_a_setting_or_section_and_fits_a_table():
    paths = [path for path, _ in leaves(RunConfig().model_dump())]
    for known, source in SOURCES.items():
        assert any(f"{path}.".startswith(f"{known}.") for path in paths), known
        assert "|" not in source


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_its_heading_tells_purpose_and_cost(name: str):
    load_config(name)
    heading = read(name)[0].split("\n\n")[0]
    assert heading.startswith(f"# {name}: ")
    assert "\n# Purpose: " in heading
    assert "\n# Cost: " in heading


def test_demo_has_the_networks_of_cpu_and_records_no_video_of_its_target():
    demo, cpu = load_config("demo"), load_config("cpu")
    assert demo.world_model == cpu.world_model
    assert demo.env.task.startswith("metaworld/")
    assert demo.env.task not in demo.record.tasks
    assert demo.collect.collectors == 2


def test_the_preset_cpu_is_tuned_on_a_task_whose_videos_it_does_not_record():
    cpu = load_config("cpu")
    assert cpu.env.task.startswith("metaworld/")
    assert cpu.env.task not in cpu.record.tasks
    assert cpu.pretrain.stride == 1  # its recordings hold actions as fine-tuning does


def test_the_experts_are_those_of_all_tasks_that_are_not_of_the_benchmark():
    from prelar_ray.envs.rendering import import_simulator

    known = import_simulator("metaworld.env_dict").ALL_V3_ENVIRONMENTS  # MuJoCo comes with it, so the back end is first
    benchmark = yaml_text.parse((ROOT / "tune_configs" / "metaworld6.yaml").read_text())["finetune"]["tasks"]
    recorded = load_config("metaworld-experts").record.tasks
    assert sorted([*recorded, *benchmark]) == sorted(f"metaworld/{name}" for name in known)
