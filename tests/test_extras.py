from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from prelar_ray.errors import UsageError
from prelar_ray.extras import EXTRAS, PACKAGES, missing_package, require
from prelar_ray.extras import without as missing_extras

ROOT = Path(__file__).parents[1]
NEEDS_NO_EXTRA = [
    *("record", "data", "pretrain", "diagnose", "finetune", "tune", "status", "evaluate", "export", "fetch"),
    *("import-checkpoint", "export-checkpoint", "doctor", "cluster", "schema", "demo"),
]
HIDING = """
import importlib.util
import sys

HIDDEN = {hidden}

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Finder())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.partition(".")[0] in HIDDEN else found(name, package)
"""


def without(folder: Path, hidden: Iterable[str]) -> dict[str, str]:
    """Environment variables of processes in which some packages cannot be imported."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(HIDING.format(hidden=sorted(hidden)))
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """Environment variables of processes in which no package of an extra can be imported."""
    return without(tmp_path / "hiding", PACKAGES)


def run(bare: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prelar_ray", *arguments]
    return subprocess.run(command, cwd=folder, env=bare, capture_output=True, text=True, timeout=120, check=False)


def declared() -> dict[str, list[str]]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return {extra: [Requirement(text).name for text in texts] for extra, texts in extras.items()}


def test_every_package_is_of_an_extra_that_is_declared_and_every_extra_has_one() -> None:
    assert set(EXTRAS) == declared().keys() - {"all", "dev"}
    distributions = {"tree": "ray", "ormsgpack": "ray", "mlflow": "mlflow-skinny"}  # the extra of Ray brings two
    for package, extra in PACKAGES.items():
        assert distributions.get(package, package) in declared()[extra]


def test_all_has_every_extra_but_those_of_other_services() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert Requirement(extras["all"][0]).extras == set(EXTRAS) - {"optuna", "wandb", "mlflow"}


def test_commands_start_without_any_extra(bare: dict[str, str], tmp_path: Path) -> None:
    modules = [f"prelar_ray.commands.{name.replace('-', '_')}" for name in NEEDS_NO_EXTRA]
    program = f"import importlib, sys\nfor name in {[*modules, 'prelar_ray.api']}: importlib.import_module(name)"
    found = subprocess.run([sys.executable, "-c", program], env=bare, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["report", "runs/none"], "report"),
        (["visualize", "runs/none", "--out", "a.png"], "report"),
        (["prepare", "films", "--out", "videos"], "video"),
        (["evaluate", "runs/none", "--film", "a.mp4"], "video"),
        (["record", "--preset", "metaworld-experts", "--out", "videos", "--dry-run"], "metaworld"),
        (
            ["finetune", "--preset", "tiny", "--method", "dreamerv2", "--out", "runs/a", "env.task=dmc/walker-walk"],
            "dmc",
        ),
        (["finetune", "--preset", "tiny", "--method", "rllib/PPO", "--out", "runs/a"], "rllib"),
        (["pretrain", "--preset", "tiny", "--videos", "a", "--out", "b", "telemetry.loggers=[mlflow]"], "mlflow"),
        (["demo"], "video,report,metaworld"),
    ],
)
def test_the_extra_that_is_missing_is_named_and_nothing_is_written(
    bare: dict[str, str], tmp_path: Path, arguments: list[str], extra: str
) -> None:
    folder = tmp_path / "work"
    (folder / "films").mkdir(parents=True)
    found = run(bare, folder, *arguments)
    assert found.returncode == 2, found.stderr
    assert found.stderr.splitlines()[-1].endswith(f"pip install 'prelar-ray[{extra}]'")
    assert "Traceback" not in found.stderr
    assert [path.name for path in folder.iterdir()] == ["films"]


def test_a_task_without_its_family_is_answered_with_those_that_are_installed(
    bare: dict[str, str], tmp_path: Path
) -> None:
    words = ["finetune", "--preset", "tiny", "--method", "dreamerv2", "--out", "a", "env.task=arena-push"]
    assert "prelar/arena-push" in run(bare, tmp_path, *words).stderr


def test_a_package_of_no_extra_is_not_explained() -> None:
    assert missing_package(ModuleNotFoundError("No module named 'numpy'", name="numpy")) is None
    assert missing_package(ModuleNotFoundError("no name")) is None


def test_only_what_is_missing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert missing_extras("report", "video") == ["video"]
    with pytest.raises(
        UsageError, match=r"^a film needs packages that are not installed; pip install 'prelar-ray\[video\]'$"
    ):
        require("a film", "report", "video")
    require("a page", "report")


@pytest.mark.render
def test_deepmind_control_alone_draws_and_is_measured(tmp_path: Path) -> None:
    environment = without(tmp_path / "hiding", ["metaworld"])
    found = run(
        environment, tmp_path, "doctor", "--only", "rendering", "env.task=dmc/walker-walk", "env.render_quality=fast"
    )
    assert found.returncode == 0, found.stdout
    assert "frames/s" in found.stdout


def test_doctor_fails_where_the_task_s_simulator_is_missing_and_not_where_none_is_needed(
    bare: dict[str, str], tmp_path: Path
) -> None:
    found = run(bare, tmp_path, "doctor", "--only", "rendering", "env.task=metaworld/reach-v3")
    assert found.returncode == 1
    assert "pip install 'prelar-ray[metaworld]'" in found.stdout
    found = run(bare, tmp_path, "doctor", "--only", "rendering", "--preset", "tiny")
    assert found.returncode == 0
    assert "not needed" in found.stdout
