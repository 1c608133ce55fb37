"""How pages are made from templates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import jinja2

from prelar_ray import __version__
from prelar_ray.reporting.drawing import Chart
from prelar_ray.reporting.formats import duration, moment, number
from prelar_ray.storage.files import atomic_file

__all__ = ["Panel", "alike", "machines", "write_page"]

T = TypeVar("T")


@dataclass(frozen=True)
class Panel:
    """A chart with its caption."""

    chart: Chart
    name: str
    meaning: str
    file: str = ""
    """Name of its files without suffix, if it is written as files too."""


def write_page(path: Path, template: str, **content: Any) -> None:
    """Write the page that a template makes of ``content``: no script, no external resource, light and dark.

    Raises:
        DataError: it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prelar_ray.reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "duration": duration, "moment": moment}
    environment.filters["known"] = lambda text: "–" if text == "nan" else text
    written = moment(datetime.now(UTC).isoformat())
    page = environment.get_template(template).render(version=__version__, written=written, **content)
    with atomic_file(path) as file:
        file.write(page.encode())


def machines(runs: Iterable[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Group runs, given as name and content of ``run.json``, by the commit, versions and hardware they ran with."""
    made_with = ((name, {key: info.get(key) for key in ("commit", "versions", "hardware")}) for name, info in runs)
    return [{"runs": names, "made_with": same} for names, same in alike(made_with)]


def alike(items: Iterable[tuple[str, T]]) -> list[tuple[list[str], T]]:
    """Return the names of equal values together, with the value."""
    found: list[tuple[list[str], T]] = []
    for name, value in items:
        for names, same in found:
            if same == value:
                names.append(name)
                break
        else:
            found.append(([name], value))
    return found
