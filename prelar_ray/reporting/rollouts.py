"""The paper's Fig. 1 as a picture: what sequences of latent actions do to frames."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prelar_ray.reporting.figures import mosaic
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
            _draw(axes, panel)
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


def _draw(axes: Axes, panel: FramePanel) -> None:
    columns, size = len(panel.rows[0]), panel.rows[0].shape[1]
    pitch = size + GAP
    axes.imshow(mosaic(panel.rows, GAP), interpolation="nearest")
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(columns) * pitch + size / 2, ["start", *map(str, range(1, columns))])
    axes.set_yticks(np.arange(len(panel.rows)) * pitch + size / 2, list(panel.labels))
    axes.axvline(pitch - GAP / 2 - 0.5, color="0.2", linewidth=1.5)
