"""Every name of code and every setting in the glossary exists."""

from __future__ import annotations

import importlib
import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from prelar_ray.config import RunConfig

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "glossary.md").read_text(encoding="utf-8")
CODE = re.findall(r"\[`([\w.]+)`\]\(([^)]+)\)", TEXT)
SETTINGS = sorted(set(re.findall(r"(?<!\[)`([a-z_]+(?:\.[a-z_]+)+)`", TEXT)))


def find(name: str) -> Any:
    """Return the module or attribute of the package with this dotted name."""
    module, rest = "prelar_ray", name.split(".")
    while rest:
        try:
            importlib.import_module(f"{module}.{rest[0]}")
        except ModuleNotFoundError:
            break
        module = f"{module}.{rest.pop(0)}"
    return reduce(getattr, rest, importlib.import_module(module))


@pytest.mark.parametrize(("name", "link"), CODE, ids=[name for name, _ in CODE])
def test_a_name_exists_in_the_file_of_its_link(name: str, link: str) -> None:
    find(name)
    path = (DOCS / link).resolve()
    assert path.exists()
    module = ".".join(path.relative_to(DOCS.resolve().parent).with_suffix("").parts)
    assert f"prelar_ray.{name}.".startswith(f"{module}.")


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_exists(key: str) -> None:
    reduce(getattr, key.split("."), RunConfig())


def test_every_term_is_defined_once() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", TEXT, flags=re.MULTILINE)
    terms = [term for term in rows if term not in ("term", "---")]
    assert len(terms) == len(set(terms)) > 60


@pytest.mark.parametrize("name", ["models.rssm.Missing", "models.missing", "types.Episode.missing"])
def test_a_name_that_does_not_exist_is_found(name: str) -> None:
    with pytest.raises(AttributeError):
        find(name)
