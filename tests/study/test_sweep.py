from __future__ import annotations

from pathlib import Path

import pytest

from prelar_ray.errors import ConfigError
from prelar_ray.study.sweep import Range, read_sweep


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def test_a_study_may_be_as_short_as_its_stages(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path, "finetune: {methods: dreamerv2, tasks: prelar/point-reach, seeds: 3}"))
    assert sweep.name == "study"
    assert sweep.finetune is not None
    assert (sweep.finetune.methods, sweep.finetune.tasks, sweep.finetune.seeds) == (
        ("dreamerv2",),
        ("prelar/point-reach",),
        (3,),
    )


def test_settings_may_be_nested_or_dotted(tmp_path: Path) -> None:
    text = "settings: {world_model: {rssm: {deter: 8}}, loss.kl_weight: 1.0}\nfinetune: {}"
    assert read_sweep(write(tmp_path, text)).settings == {"world_model.rssm.deter": 8, "loss.kl_weight": 1.0}


def test_spaces_hold_lists_and_ranges(tmp_path: Path) -> None:
    text = (
        "search: {kind: random, samples: 4}\n"
        "finetune: {space: {loss.kl_weight: {log_uniform: [1e-2, 1.0]}, behaviour.horizon: [5, 15]}}"
    )
    sweep = read_sweep(write(tmp_path, text))
    assert sweep.finetune is not None
    assert sweep.finetune.space == {"loss.kl_weight": Range(log_uniform=(0.01, 1.0)), "behaviour.horizon": (5, 15)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("finetnue: {}", r"finetnue: unknown key; nearest: finetune"),
        ("finetune: {seed: 1}", r"finetune\.seed: unknown key; nearest: seeds"),
        ("name: study", "a study needs a pretrain section, a finetune section, or both"),
        ("finetune: {seeds: []}", r"finetune\.seeds=\(\): .*at least 1 item"),
        ("pretrain: {}", r"pretrain\.videos: missing"),
        ("finetune: {}\nconcurrent: 0", r"concurrent=0: .*greater than 0"),
        ("finetune: {space: {seed: {uniform: [0, 1]}}}", r"finetune\.space\.seed: a range has no grid"),
        ("finetune: {space: {seed: {uniform: [1, 0]}}}\nsearch: {kind: random}", r"must be below the second"),
        ("finetune: {space: {seed: {log_uniform: [0, 1]}}}\nsearch: {kind: random}", r"both must be above 0"),
        ("finetune: {space: {seed: {}}}\nsearch: {kind: random}", r"give one of uniform, .*given: none"),
        ("finetune: {tasks: [a, b]}\nscheduler: {kind: asha}", r"scheduler\.kind=asha compares runs .* one task"),
        ("finetune: {}\nsearch: {kind: optuna}", r"search\.kind=optuna needs a finetune\.space"),
        ("finetune: {}\nname: ../up", r"name='\.\./up'"),
        ("settings: {a: {b: 1}, a.b: 2}\nfinetune: {}", r"settings: a\.b is given twice"),
        ("[1, 2]", "must be a mapping of keys"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"study\.yaml: .*{said}" if "twice" not in said else said):
        read_sweep(write(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: no such sweep file; tune_configs/ holds some"):
        read_sweep(tmp_path / "gone.yaml")
