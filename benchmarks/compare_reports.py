"""Compare two folders of reports, as before and after a change: pages, pictures and tables must be equal.

Make them from the same runs with `prelar-ray report`. When a page was written is left out; pictures are compared pixel
for pixel, those of pages too; PDF files and all others byte for byte.
"""

from __future__ import annotations

import argparse
import base64
import difflib
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from rich.console import Console

MOMENTS = re.compile(r"Written [^.]*? by|last file was written .*? before")
PICTURE = re.compile(r"data:image/png;base64,([^\"]*)")
LINES = 12
"""Most lines of a difference that are shown."""


def main(argv: Sequence[str]) -> int:
    """Print what differs and how many files of each kind are equal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare_reports", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args(argv)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    old, new = (
        {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
        for root in (args.before, args.after)
    )
    for path in sorted(old.keys() ^ new.keys()):
        console.print(f"{path}: only {'before' if path in old else 'after'}")
    counts: dict[str, Counter[str]] = {}
    for path in sorted(old.keys() & new.keys()):
        difference = _difference(old[path], new[path])
        counts.setdefault(path.suffix or "others", Counter())["differ" if difference else "equal"] += 1
        for line in difference[:LINES]:
            console.print(f"{path}: {line}")
        if path.suffix == ".html" and not difference:
            counts.setdefault("pictures of pages", Counter())["equal"] += len(PICTURE.findall(new[path].read_text()))
    for kind, count in counts.items():
        console.print(f"{kind}: {count['equal']} equal, {count['differ']} differ")
    return int(old.keys() != new.keys() or any(count["differ"] for count in counts.values()))


def _difference(old: Path, new: Path) -> list[str]:
    """Return what differs, as lines; nothing where nothing does."""
    one, other = old.read_bytes(), new.read_bytes()
    if one == other or (old.suffix == ".png" and _pixels(one) == _pixels(other)):
        return []
    if old.suffix in (".png", ".pdf"):
        return ["differs"]
    before, after = (_comparable(content).splitlines() for content in (one, other))
    return list(difflib.unified_diff(before, after, "before", "after", lineterm="", n=0))


def _comparable(content: bytes) -> str:
    """Return text without moments, each picture as a number that stands for its pixels."""
    text = MOMENTS.sub("", content.decode(errors="replace"))
    return PICTURE.sub(lambda found: f"picture {hash(_pixels(base64.b64decode(found[1])))}", text)


def _pixels(png: bytes) -> tuple[tuple[int, int], bytes]:
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    return image.size, image.tobytes()
