"""Numbers as readers of pages and tables see them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from prelar_ray.reporting.scores import SUCCESS
from prelar_ray.statistics import Interval

__all__ = ["duration", "moment", "number", "score_text", "spaced", "steps_text"]


def spaced(number: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


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


def score_text(interval: Interval, metric: str) -> str:
    """Return for example ``0.86 [0.79, 0.92]``; a score without an interval says so."""
    digits = 2 if metric == SUCCESS else 1
    return f"{interval.estimate:.{digits}f} (no interval)" if math.isnan(interval.low) else interval.format(digits)


def steps_text(interval: Interval, at: int) -> str:
    """Return for example ``65 000 [45 000, 95 000]``; what was not reached is later than ``at``."""
    bounds = (interval.estimate, interval.low, interval.high)
    half, low, high = (f"> {spaced(at)}" if not math.isfinite(step) else spaced(round(step)) for step in bounds)
    return f"{half} (no interval)" if math.isnan(interval.low) else f"{half} [{low}, {high}]"
