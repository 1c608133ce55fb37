"""The paper's Fig. 1 as a picture: what sequences of latent actions do to frames."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from prelar_ray.reporting.drawing import show_frames
from prelar_ray.storage.files import atomic_file
from prelar_ray.types import Frames

__all__ = ["SUFFIXES", "FramePanel", "draw_panels", "write_panels"]

SUFFIXES = (".png", ".pdf", ".svg")
"""Kinds of pictures that :func:`write_panels` writes."""
FRAME_WIDTH = 0.6
"""Width of a frame, inches."""
MARGIN = 1.1
"""Room for row labels, inches."""
HEADROOM = 0.75
"""Room for a panel's title and the numbers of its frames, inches."""
GAP = 4
"""Pixels between frames."""


@dataclass(frozen=True)
class FramePanel:
    """Rows of frames under one title."""

    title: str
    labels: Sequence[str]
    """Of each row."""
    rows: Sequence[Frames]
    """``(T, Hpx, Wpx, C)`` each."""


def draw_panels(panels: Sequence[FramePanel], heading: str) -> Figure:
    """Draw panels one below the other; the first frame of every row is a real one, set apart by a line."""
    columns = len(panels[0].rows[0])
    heights = [FRAME_WIDTH * len(panel.rows) + HEADROOM for panel in panels]
    style: dict[Any, Any] = {"font.family": "sans-serif", "font.size": 9, "svg.hashsalt": "prelar"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(FRAME_WIDTH * columns + MARGIN, sum(heights) + 0.4), layout="constrained")
        figure.suptitle(heading, fontsize=9, color="0.35")
        grid = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            names = ["start", *map(str, range(1, len(panel.rows[0])))]
            show_frames(axes, panel.rows, panel.labels, names, GAP)
            axes.set_title(panel.title, loc="left", fontsize=10)
            axes.axvline(panel.rows[0].shape[1] + GAP / 2 - 0.5, color="0.2", linewidth=1.5)
    return figure


def write_panels(figure: Figure, path: Path) -> None:
    """Write a picture; the suffix of ``path`` says which kind.

    Raises:
        DataError: it cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=160)
    with atomic_file(path) as file:
        file.write(buffer.getvalue())
