"""Checks of a machine: what was found, and what to do about it, one line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.text import Text

__all__ = ["Check", "check_line"]


@dataclass(frozen=True)
class Check:
    """Result of a check."""

    status: Literal["OK", "WARN", "FAIL", "SKIP"]
    finding: str
    remedy: str = ""


def check_line(name: str, check: Check, width: int = 14) -> Text:
    """Return ``OK    NAME  finding  -> remedy``, in colour on a terminal; ``width`` is that of the names' column."""
    colour = {"OK": "green", "WARN": "yellow", "FAIL": "bold red", "SKIP": "yellow"}[check.status]
    remedy = f"  -> {check.remedy}" if check.remedy else ""
    return Text.assemble((f"{check.status:<5}", colour), f"{name:<{width}} {check.finding}", (remedy, "cyan"))
