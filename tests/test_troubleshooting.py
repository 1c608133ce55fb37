"""Messages that the documentation explains are messages that somebody can see."""

from __future__ import annotations

import ast
import errno
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("troubleshooting.md", "data.md")
PLACEHOLDER = re.compile(r"\.\.\.|\b[A-Z]+\b|\b\d+\b")
VALUE = "\0"


def _said(node: ast.AST) -> Iterator[str]:
    """Texts below a node that are no docstrings, with a mark for each value in them."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield from _said(child)


@cache
def messages_of_the_package() -> list[str]:
    """Every text in the source, and what the system says of a full disk."""
    trees = (ast.parse(path.read_text()) for path in (ROOT / "prelar_ray").rglob("*.py"))
    return [os.strerror(errno.ENOSPC), *(text for tree in trees for text in _said(tree))]


def explained(page: str) -> list[str]:
    """Messages in the first columns of a page's tables of messages."""
    found, within = [], False
    for line in (ROOT / "docs" / page).read_text().splitlines():
        within = line.startswith("| message |") or (within and line.startswith("|"))
        if within and line.startswith("| `"):
            found += re.findall(r"`([^`]+)`", line.split(" | ")[0])
    return found


@pytest.mark.parametrize("message", [message for page in PAGES for message in explained(page)])
def test_a_message_that_is_explained_exists(message: str) -> None:
    parts = [re.escape(part.strip()) for part in PLACEHOLDER.split(message) if part.strip(" ,;:()")]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    assert any(pattern.search(text) for text in messages_of_the_package()), parts


@pytest.mark.parametrize("page", PAGES)
def test_there_are_messages(page: str) -> None:
    assert len(explained(page)) > 15
