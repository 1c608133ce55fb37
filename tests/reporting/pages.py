"""Pages as a browser would take them, and as snapshots hold them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "source", "link", "br", "hr", "input"}
ELIDED = (
    (r"(?s)<style>.*?</style>", "<style></style>"),
    (r"(?s)<pre>.*?</pre>", "<pre></pre>"),  # configurations, which have tests of their own
    (r"data:image/png;base64,[^\"]*", "PICTURE"),
    (r"Written .*? by prelar_ray [^<]*", "Written NOW by prelar_ray VERSION."),
    (r"last file was written .*? before", "last file was written A WHILE before"),
)
"""What snapshots leave out, and what stands for it."""


class Page(HTMLParser):
    """Checks nesting and that nothing is fetched from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures = 0
        self.ids: list[str] = []
        self.links: list[str] = []
        assert text.lstrip().startswith("<!DOCTYPE html>")
        assert "<script" not in text
        assert "http" not in text
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        assert all(link.removeprefix("#") in self.ids for link in self.links)
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset"):
                assert (value or "").startswith("data:image/png;base64,")
                self.pictures += 1
            elif name == "href":
                self.links.append(value or "")
            elif name == "id":
                self.ids.append(value or "")
        if tag == "img":
            assert dict(attrs)["alt"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def snapshot_of(page: Path) -> str:
    """Return a well-formed page without what changes from one time or machine to the next."""
    text = page.read_text()
    Page(text)
    for pattern, placeholder in ELIDED:
        text = re.sub(pattern, placeholder, text)
    return text
