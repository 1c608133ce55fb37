from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from prelar_ray.errors import UsageError
from prelar_ray.extras import EXTRAS, PACKAGES, missing_package, require, without

ROOT = Path(__file__).parents[1]
NEEDS_NO_EXTRA = [
    *("record", "data", "pretrain", "diagnose", "finetune", "tune", "status", "evaluate", "export", "fetch"),
    *("import-checkpoint", "export-checkpoint", "doctor", "cluster", "schema", "demo", "prepare"),
]
HIDING = f"""
import sys

HIDDEN = {sorted(PACKAGES)}

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Finder())

import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.partition(".")[0] in HIDDEN else found(name, package)
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """Environment variables of processes in which no package of an extra can be imported."""
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    return os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def run(bare: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prelar_ray", *arguments]
    return subprocess.run(command, cwd=folder, env=bare, capture_output=True, text=True, timeout=120, check=False)


def declared() -> dict[str, list[str]]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return {extra: [Requirement(text).name for text in texts] for extra, texts in extras.items()}


def test_every_package_is_of_an_extra_that_is_declared_and_every_extra_has_one() -> None:
    assert set(EXTRAS) == declared().keys() - {"all", "dev"}
    distributions = {"tree": "ray", "ormsgpack": "ray"}  # what the extra of Ray brings
    for package, extra in PACKAGES.items():
        assert distributions.get(package, package) in declared()[extra]


def test_all_has_every_extra_but_those_of_other_services() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert Requirement(extras["all"][0]).extras == set(EXTRAS) - {"optuna", "wandb", "mlflow"}


def test_commands_start_without_any_extra(bare: dict[str, str], tmp_path: Path) -> None:
    modules = [f"prelar_ray.commands.{name.replace('-', '_')}" for name in NEEDS_NO_EXTRA if name != "prepare"]
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


def test_a_package_of_no_extra_is_not_explained() -> None:
    assert missing_package(ModuleNotFoundError("No module named 'numpy'", name="numpy")) is None
    assert missing_package(ModuleNotFoundError("no name")) is None


def test_only_what_is_missing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert without("report", "video") == ["video"]
    with pytest.raises(
        UsageError, match=r"^a film needs packages that are not installed; pip install 'prelar-ray\[video\]'$"
    ):
        require("a film", "report", "video")
    require("a page", "report")
