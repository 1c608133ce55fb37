"""Run folders to one self-contained HTML page."""

from prelar_ray.reporting.html import write_report

__all__ = ["write_report"]
