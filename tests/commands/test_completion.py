"""Completion as a shell asks for it: in processes of their own, one of them a real bash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).parent


def completions(line: str, folder: Path) -> list[str]:
    """Return what is offered with the cursor at the end of ``line``."""
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:",  # bash's own
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(folder / "offered"),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    done = subprocess.run(
        [sys.executable, "-m", "prelar_ray"], cwd=folder, env=os.environ | asked, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return [text.rstrip() for text in (folder / "offered").read_text().splitlines()]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("prelar-ray fine", ["finetune"]),
        ("prelar-ray finetune --in", ["--init"]),
        ("prelar-ray data sh", ["show"]),
        ("prelar-ray data show --t", ["--to"]),
        ("prelar-ray data show videos/x --se", ["--segment-length", "--seed"]),
        ("prelar-ray pretrain method=contextwm", ["contextwm"]),
        ("prelar-ray pretrain telemetry.loggers=", [r"\[wandb\]", r"\[mlflow\]"]),
        ("prelar-ray pretrain loss.image_", ["loss.image_weight="]),
        ("prelar-ray pretrain --preset tiny loss.balance=", ["none", "learnt"]),
        ("prelar-ray pretrain compile=t", ["true"]),
        ("prelar-ray finetune --preset ti", ["tiny"]),
        ("prelar-ray finetune --method prelar_p", ["prelar_plus"]),
        ("prelar-ray finetune unknown.section.", []),
    ],
)
def test_commands_options_settings_and_their_values_are_offered(tmp_path: Path, line: str, offered: list[str]) -> None:
    assert completions(line, tmp_path) == offered


def test_folders_are_offered_where_a_run_is_meant(tmp_path: Path) -> None:
    (tmp_path / "runs" / "reach").mkdir(parents=True)
    assert completions("prelar-ray evaluate runs/re", tmp_path) == ["runs/reach/"]


def test_bash_completes_once_it_was_told_to(tmp_path: Path) -> None:
    script = """
        eval "$(register-python-argcomplete prelar-ray)"
        complete -p prelar-ray
        COMP_WORDS=(prelar-ray finetune --met) COMP_CWORD=2 COMP_LINE="prelar-ray finetune --met" COMP_TYPE=9
        COMP_POINT=${#COMP_LINE}
        _python_argcomplete prelar-ray
        printf '<%s>' "${COMPREPLY[@]}"
    """
    path = f"{PROGRAM}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PATH": path}, cwd=tmp_path, capture_output=True, text=True
    )
    assert "-F _python_argcomplete prelar-ray" in done.stdout
    assert done.stdout.endswith("<--method >"), done.stderr
