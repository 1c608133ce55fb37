"""Run folders to one self-contained HTML page; studies and tables of scores to a report that compares their runs."""

from prelar_ray.reporting.compare import Options
from prelar_ray.reporting.comparison_report import ComparisonReport, is_comparison, write_comparison
from prelar_ray.reporting.run_report import write_report

__all__ = ["ComparisonReport", "Options", "is_comparison", "write_comparison", "write_report"]
