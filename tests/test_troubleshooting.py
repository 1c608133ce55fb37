"""Messages that the documentation explains are messages that somebody can see."""

from __future__ import annotations

import ast
import errno
import os
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("troubleshooting.md", "data.md")
PLACEHOLDER = re.compile(r"\.\.\.|\b[A-Z]+\b|\b\d+\b|[()]")


@cache
def texts() -> list[str]:
    """Texts in the source, those with values in them as their parts, and what the system says of full disks."""
    found = [os.strerror(errno.ENOSPC)]
    for path in (ROOT / "prelar_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def messages(page: str) -> list[str]:
    """First columns of the tables of messages."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    found, within = [], False
    for line in lines:
        within = line.startswith("| message |") or (within and line.startswith("|"))
        if within and line.startswith("| `"):
            found.append(line.split(" | ")[0].removeprefix("| "))
    return found


@pytest.mark.parametrize("message", [message for page in PAGES for message in messages(page)])
def test_a_message_that_is_explained_exists(message: str) -> None:
    parts = [part.strip(" ,;:") for quoted in re.findall(r"`([^`]+)`", message) for part in PLACEHOLDER.split(quoted)]
    told = [part for part in parts if len(part) > 3]
    assert told, message
    for part in told:
        assert any(part in text for text in texts()), part


@pytest.mark.parametrize("page", PAGES)
def test_there_are_messages(page: str) -> None:
    assert len(messages(page)) > 15
