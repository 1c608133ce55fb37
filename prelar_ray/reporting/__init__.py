"""Run folders to one self-contained HTML page; studies and tables of scores to a report that compares their runs."""

from prelar_ray.reporting.comparison import Options
from prelar_ray.reporting.html import write_report
from prelar_ray.reporting.studies import is_study
from prelar_ray.reporting.study_report import StudyReport, is_comparison, write_study_report

__all__ = ["Options", "StudyReport", "is_comparison", "is_study", "write_report", "write_study_report"]
