from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from prelar_ray.commands import demo, evaluate, finetune, pretrain, record
from prelar_ray.config import RunConfig, load_config
from prelar_ray.learning.learner import FinetuneLearner, PretrainLearner
from prelar_ray.models.layers import parameter_count

Main = Callable[[Sequence[str]], int]
WITH_CONFIG = [record, pretrain, finetune, demo]


def split(output: str, tmp_path: Path) -> tuple[RunConfig, str]:
    """The configuration, read back, and the tables after it."""
    at = output.index("parameters: pretrain")
    (tmp_path / "printed.yaml").write_text(output[:at])
    return load_config(None, tmp_path / "printed.yaml"), output[at:]


def rows(table: str) -> dict[str, str]:
    return dict(re.findall(r"^\W*([a-z][\w :,]*?) +\W? *([\d,.]+)\W*$", table, flags=re.MULTILINE))


def check(output: str, config: RunConfig, tmp_path: Path) -> None:
    printed, tables = split(output, tmp_path)
    assert printed == config
    pretraining, finetuning, memory = re.split("parameters: finetune\n|memory, float32", tables)[:3]
    counts = rows(pretraining)
    model = PretrainLearner(config).model
    for name, part in model.named_children():
        assert counts[name.replace("_", " ")] == f"{parameter_count(part):,}"
    assert counts["total"] == f"{parameter_count(model):,}"
    learner = FinetuneLearner(config, 4)
    trained = parameter_count(learner.model) + parameter_count(learner.actor_critic)
    assert rows(finetuning.split("parameters: ")[0])["total"] == f"{trained:,}"
    assert rows(memory)["replay: frames at capacity"] == f"{config.replay.capacity_steps * 64 * 64 * 3 / 2**30:.2f}"
    assert "activations of one update" in memory


@pytest.mark.parametrize("command", WITH_CONFIG, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_dry_run_prints_configuration_counts_and_memory_and_makes_nothing(
    command: object, settings: str, minute_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main: Main = command.main  # type: ignore[attr-defined]
    assert main(["--config", settings, "--dry-run", "--out", str(out), "seed=11"]) == 0
    check(capsys.readouterr().out, load_config(None, None, ["seed=11"], base=minute_config), tmp_path)
    assert not out.exists()
    assert main(["--config", settings, "--dry-run"]) == 0  # needs no folder


def test_a_dry_run_of_evaluate_prints_the_checkpoint_s_configuration(
    finetuned: Path, minute_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(finetuned), "--dry-run", "evaluation.envs=3"]) == 0
    check(capsys.readouterr().out, load_config(None, None, ["evaluation.envs=3"], base=minute_config), tmp_path)
