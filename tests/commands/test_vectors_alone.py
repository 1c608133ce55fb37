"""What the commands say of a run that observes a vector and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prelar_ray.commands import doctor, evaluate, finetune, record
from prelar_ray.config import RunConfig, load_config, to_yaml

BLIND = (
    *("world_model.latent_action_source=none", "world_model.action_input=raw", "finetune.bonus.weight=0"),
    *("env.image_size=0", "env.vector_key=observation", "env.vector_size=1"),
    *("env.task=gym/tests.envs.own_world:Blind-v0", "env.time_limit=20", "collect.synchronous=true"),
)


def test_commands_say_what_such_a_run_is_and_that_it_has_no_film(
    minute_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    settings, out = tmp_path / "blind.yaml", tmp_path / "run"
    settings.write_text(to_yaml(load_config(None, None, BLIND, base=minute_config)))
    given = ["--config", str(settings)]
    assert doctor.main([*given, "--only", "rendering", "--only", "memory", "--only", "environment"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("OK   rendering      not needed: env.image_size=0")
    assert any(line.startswith("OK   env-vector     1 numbers") for line in lines)
    assert not any("env-image" in line for line in lines)
    assert finetune.main([*given, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "vector encoder" in printed
    assert "decoder " not in printed.partition("parameters: finetune")[2]
    assert finetune.main([*given, "--out", str(out)]) == 0
    assert "--film" not in capsys.readouterr().out
    assert evaluate.main([str(out), "--episodes", "2"]) == 0
    assert "return " in capsys.readouterr().out
    film = tmp_path / "film.mp4"
    assert "--film" in refused(evaluate.main, out, "--film", film, code=2)
    assert "--sheet" in refused(doctor.main, *given, "--sheet", tmp_path / "sheet.png", code=2)
    assert "env.image_size=0: videos are made of frames" in refused(record.main, *given, "--dry-run", code=2)
    assert not film.exists()
