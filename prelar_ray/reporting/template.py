"""How pages are made from templates: filters, and the parts that every page has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import jinja2

from prelar_ray import __version__

__all__ = ["duration", "machines", "moment", "number", "render"]


def render(template: str, **content: Any) -> str:
    """Return the page that a template of this package makes of ``content``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prelar_ray", "reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "duration": duration, "moment": moment}
    written = moment(datetime.now(UTC).isoformat())
    return environment.get_template(template).render(version=__version__, written=written, **content)


def machines(runs: Iterable[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Group runs, given as name and content of ``run.json``, by the commit, versions and hardware they ran with."""
    found: list[dict[str, Any]] = []
    for name, info in runs:
        made_with = {key: info.get(key) for key in ("commit", "versions", "hardware")}
        for machine in found:
            if machine["made_with"] == made_with:
                machine["runs"].append(name)
                break
        else:
            found.append({"made_with": made_with, "runs": [name]})
    return found


def number(value: object) -> str:
    """Return a number with three significant digits, its thousands apart; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value) or 0 < abs(value) < 1e-3 or abs(value) >= 1e9:
        return f"{value:.4g}"
    digits = 0 if isinstance(value, int) else max(2 - math.floor(math.log10(abs(value))), 0) if value else 0
    return f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def duration(seconds: object) -> str:
    """Return ``4.2 s``, ``3:05`` (minutes) or ``2:03:05`` (hours)."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return str(seconds)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h" if minutes >= 60 else f"{minutes}:{rest:02} min"


def moment(stamp: object) -> str:
    """Return ``2025-01-31 12:00 UTC``."""
    try:
        return datetime.fromisoformat(str(stamp)).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return "unknown"
