"""Names of unknown origin, as each kind of output takes them: as text, and nothing that is run or set in formulas."""

from __future__ import annotations

import re

from prelar_ray.wording import printable, shortened

__all__ = ["csv_text", "label_text", "markdown_text", "read_csv_text"]

LABEL = 60
"""Characters of a name for which a chart has room."""

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""How a cell begins that a spreadsheet computes, or that :func:`csv_text` has changed."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MARKDOWN = str.maketrans({**{sign: f"\\{sign}" for sign in "\\|`[]!"}, "&": "&amp;", "<": "&lt;", ">": "&gt;"})


def csv_text(text: str) -> str:
    """Return a cell that spreadsheets show as it is: one that they would compute begins with an apostrophe."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def read_csv_text(text: str) -> str:
    """Return what :func:`csv_text` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def markdown_text(text: str) -> str:
    """Return a name in a cell of a Markdown table: no link, HTML or further cell."""
    return printable(text, len(text)).translate(_MARKDOWN)


def label_text(text: str) -> str:
    """Return a name in a chart, short enough for it; matplotlib leaves out labels that begin with an underscore."""
    short = shortened(text, LABEL)
    return f" {short}" if short.startswith("_") else short
