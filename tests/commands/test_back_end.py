"""A back end that cannot draw here is named before anything begins, by every command that makes environments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prelar_ray.commands import evaluate, finetune, record, tune
from prelar_ray.envs.opengl import TRIED

Refused = Callable[..., str]

TASK = "metaworld/reach-v3"
SWEEP = f"settings: {{}}\nfinetune: {{methods: [dreamerv2], tasks: [{TASK}], seeds: [0]}}\n"

pytestmark = pytest.mark.render


@pytest.fixture
def without_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a display, on which somebody asks for glfw; MuJoCo aborts its process there."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", TRIED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUJOCO_GL", "glfw")


@pytest.mark.usefixtures("without_display")
@pytest.mark.parametrize("kind", ["one process", "on Ray", "a baseline", "record", "evaluate", "a study"])
def test_it_is_refused_in_one_line_before_anything_begins(
    kind: str, settings: str, request: pytest.FixtureRequest, tmp_path: Path, refused: Refused
) -> None:
    out = tmp_path / "out"
    train = ["--config", settings, "--out", out, f"env.task={TASK}"]
    if kind == "one process":
        error = refused(finetune.main, *train, code=1)
    elif kind == "on Ray":
        error = refused(finetune.main, *train, "cluster=auto", code=1)
    elif kind == "a baseline":
        algorithm = ["--preset", "tiny", "--method", "rllib/PPO", "--out", out, f"env.task={TASK}"]
        error = refused(finetune.main, *algorithm, code=1)
    elif kind == "record":
        error = refused(record.main, "--config", settings, "--out", out, f"record.tasks=[{TASK}]", code=1)
    elif kind == "evaluate":
        finetuned = request.getfixturevalue("finetuned")
        error = refused(evaluate.main, finetuned, "--random", f"env.task={TASK}", code=1)
    else:
        (tmp_path / "sweep.yaml").write_text(SWEEP)
        error = refused(tune.main, tmp_path / "sweep.yaml", "--out", out, code=1)
    said = error.splitlines()
    assert said[-1].startswith("error: MUJOCO_GL=glfw does not work (")
    assert "unset MUJOCO_GL" in said[-1]
    assert len(said) < 5
    assert not out.exists()
