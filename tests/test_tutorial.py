"""Every command of the tutorial, taken from its page: as it stands at night, with less to do in every run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
LESS = {
    "record": ["record.episodes_per_task=8"],
    "pretrain": ["pretrain.updates=8", "pretrain.batch_size=2", "pretrain.validation_every_updates=4"],
    "finetune": [
        *("finetune.env_steps=420", "finetune.random_steps=400", "finetune.initial_updates=1"),
        *("finetune.batch_size=8", "evaluation.every_env_steps=420", "evaluation.episodes=2", "evaluation.envs=2"),
    ],
    "evaluate": ["evaluation.episodes=2", "evaluation.envs=2"],
}
"""Settings with which a command takes seconds; the last of two that set the same counts."""


def blocks(language: str = "") -> list[str]:
    """The fenced blocks of the page in one language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands() -> list[list[str]]:
    """The page's commands of this package, in order."""
    lines = [line for block in blocks() for line in block.splitlines()]
    assert lines.pop(0) == ". .venv/bin/activate"
    found = [shlex.split(line) for line in lines]
    assert all(words[0] == "prelar-ray" for words in found)
    return [words[1:] for words in found]


def follow(folder: Path, less: bool) -> str:
    """Run the commands of the page, then its code; returns what the code printed."""
    for name in ("prelar_ray", "examples"):  # the page begins in the repository's folder
        (folder / name).symlink_to(ROOT / name)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command, *arguments in commands():
        words = [command, *arguments, *(LESS.get(command, []) if less else [])]
        if less and command == "evaluate":
            del words[words.index("--episodes") : words.index("--episodes") + 2]
        done = subprocess.run(
            [sys.executable, "-m", "prelar_ray", *words], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(900)
def test_every_command_of_the_tutorial_works_with_less_to_do(tmp_path: Path) -> None:
    said = follow(tmp_path, less=True)
    assert re.fullmatch(r"return -?\d+, success (True|False)\n", said)
    for made in (
        *("videos/film.png", "runs/pretrain/latent.png", "videos/arena.gif", "runs/reach/film.gif"),
        *("runs/comparison/report.html", "runs/reach-exported/README.md"),
    ):
        assert (tmp_path / made).stat().st_size > 0, made


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_the_tutorial_s_policy_is_better_than_random(tmp_path: Path) -> None:
    follow(tmp_path, less=False)
    scores = {}
    for name, random in (("policy", []), ("random", ["--random"])):
        words = ["evaluate", "runs/reach", "--episodes", "20", "--json", f"{name}.json", *random]
        subprocess.run([sys.executable, "-m", "prelar_ray", *words], cwd=tmp_path, check=True, capture_output=True)
        returns = json.loads((tmp_path / f"{name}.json").read_text())["returns"]
        scores[name] = sum(returns) / len(returns)
    assert scores["policy"] > 2 * scores["random"], scores
