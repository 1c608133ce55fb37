"""Who may import whom: read from the source, so that an import inside a function counts too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import prelar_ray

PACKAGE = Path(prelar_ray.__file__).parent

ROOT = {
    *(
        "prelar_ray",
        "action_space",
        "types",
        "errors",
        "extras",
        "fitting",
        "roles",
        "seeding",
        "interrupts",
        "statistics",
    ),
    "wording",
}
RECORDS = {"config", "storage", "telemetry"}
DATA = {"envs", "video", "sources", "preparation", "replay"}
ALGORITHM = {"models", "learning", "checkpoint"}
EVERYTHING = {
    *ROOT,
    *RECORDS,
    *DATA,
    *ALGORITHM,
    *("published", "acting", "training", "distributed", "baselines", "kinds", "study", "reporting"),
    *("watching", "cluster", "api", "commands"),
}

# Package, or module at the root: what it may import besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(ROOT, ROOT),
    "prelar_ray": ROOT | {"config", "video", "api"},  # public names, imported when they are asked for
    "config": ROOT,
    "storage": ROOT | {"config"},
    "telemetry": ROOT | {"storage"},
    "envs": ROOT | {"config"},
    "video": ROOT | {"config", "storage", "envs"},
    "sources": ROOT | {"storage", "video"},
    "preparation": ROOT | {"storage", "video", "sources"},
    "replay": ROOT | {"config", "storage"},
    "models": ROOT | {"config"},
    "learning": ROOT | {"config", "models"},
    "checkpoint": ROOT | {"config", "storage", "models", "learning"},
    "published": ROOT | {"config", "storage", "models", "learning", "checkpoint"},
    "acting": ROOT | RECORDS | DATA | ALGORITHM,
    "training": ROOT | RECORDS | DATA | ALGORITHM | {"acting"},
    "distributed": ROOT | RECORDS | DATA | ALGORITHM | {"acting", "training"},
    "baselines": ROOT | RECORDS | DATA | ALGORITHM | {"acting", "training", "distributed"},
    "kinds": ROOT | RECORDS | DATA | ALGORITHM | {"acting", "training", "distributed", "baselines"},
    "study": ROOT | RECORDS | DATA | ALGORITHM | {"distributed", "kinds"},
    "reporting": ROOT | RECORDS | {"kinds"},
    "watching": ROOT | RECORDS | {"kinds"},
    "cluster": ROOT | RECORDS,
    "api": ROOT | RECORDS | DATA | ALGORITHM | {"acting", "kinds", "study"},
    **dict.fromkeys(("commands", "__main__", "tune"), EVERYTHING),
}

ENTRY = {"commands", "__main__", "tune"}

# Library: the packages that may import it. Libraries that are not named are free.
ONLY_IN: dict[str, set[str]] = {
    "ray": {"baselines", "distributed", "study", "cluster", *ENTRY},
    "torch": {*ALGORITHM, "api", "published", "acting", "training", "baselines", "distributed", *ENTRY},
    "gymnasium": {"envs", "video", "acting", "training", "baselines", "distributed", *ENTRY},
    "mujoco": {"envs", *ENTRY},
    "metaworld": {"envs", *ENTRY},
    "dm_control": {"envs", *ENTRY},
}


def package_of(path: Path) -> str:
    """Name of the package or root module that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return "prelar_ray" if first == "__init__.py" else first.removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import; names taken from the package itself count as modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; name the package"
            module = node.module or ""
            if module == "prelar_ray":
                modules = {path.stem for path in PACKAGE.iterdir()}
                names = (alias.name for alias in node.names)
                yield from ((node.lineno, f"{module}.{name}" if name in modules else module) for name in names)
            else:
                yield node.lineno, module


def violations(path: Path, source: str) -> list[str]:
    here, found = package_of(path), []
    for line, name in imported(ast.parse(source)):
        library, _, rest = name.partition(".")
        if library == "prelar_ray":
            target = rest.partition(".")[0] or "prelar_ray"
            allowed = target == here or target in MAY_IMPORT[here]
        else:
            allowed = here in ONLY_IN.get(library, {here})
        if not allowed:
            found.append(f"{path.relative_to(PACKAGE.parent)}:{line}: {here} may not import {name}")
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_every_module_belongs_to_a_package_of_the_table():
    unknown = {package_of(path) for path in SOURCES} - MAY_IMPORT.keys()
    assert not unknown, f"say in MAY_IMPORT what these may import: {sorted(unknown)}"


def test_imports_go_in_one_direction():
    known = [path for path in SOURCES if package_of(path) in MAY_IMPORT]
    found = [line for path in known for line in violations(path, path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("learning/x.py", "import ray"),
        ("learning/x.py", "def f():\n    from ray.util import state"),
        ("replay/x.py", "import torch.nn as nn"),
        ("models/x.py", "from gymnasium import spaces"),
        ("models/x.py", "from prelar_ray.learning.kl import balanced_kl"),
        ("telemetry/x.py", "from prelar_ray import config"),
        ("reporting/x.py", "import prelar_ray.checkpoint"),
        ("types.py", "from prelar_ray.commands.cli import main"),
    ],
)
def test_an_import_against_the_direction_is_found(file: str, source: str):
    assert len(violations(PACKAGE / file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("distributed/x.py", "import ray\nfrom prelar_ray.acting.collector import Collector"),
        ("models/x.py", "import torch\nfrom prelar_ray.models.rssm import RSSM"),
        ("commands/cli.py", "from prelar_ray import __version__, config"),
        ("envs/x.py", "import rayon, torchless"),
    ],
)
def test_an_import_along_the_direction_is_fine(file: str, source: str):
    assert violations(PACKAGE / file, source) == []
