"""The picture of the paper's Fig. 1: every frame where it belongs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prelar_ray.errors import DataError
from prelar_ray.reporting.rollouts import GAP, FramePanel, draw_panels, write_panels


def panel(title: str, steps: int = 4) -> FramePanel:
    """Frames of one grey each, which tells row and step."""
    rows = [np.full((steps, 64, 64, 3), 60 * row, np.uint8) + np.arange(steps)[:, None, None, None] for row in range(3)]
    return FramePanel(title, [f"{title} {row}" for row in range(3)], [frames.astype(np.uint8) for frames in rows])


def test_panels_stand_below_each_other_with_their_labels() -> None:
    figure = draw_panels([panel("one"), panel("two")], "heading")
    assert figure.get_suptitle() == "heading"
    one, two = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
    assert [label.get_text() for label in one.get_yticklabels()] == ["one 0", "one 1", "one 2"]
    assert [label.get_text() for label in two.get_xticklabels()] == ["start", "1", "2", "3"]
    figure.draw_without_rendering()
    assert one.get_position().y0 > two.get_position().y1


def test_every_frame_is_at_its_row_and_step() -> None:
    axes = draw_panels([panel("one")], "").axes[0]
    picture = np.asarray(axes.images[0].get_array())
    assert picture.shape == (3 * (64 + GAP) - GAP, 4 * (64 + GAP) - GAP, 4)
    for row in range(3):
        for step in range(4):
            assert (picture[row * (64 + GAP) + 5, step * (64 + GAP) + 5] == [60 * row + step] * 3 + [255]).all()
    (line,) = axes.lines  # between the real frame and the first predicted one
    assert 64 < line.get_xdata()[0] < 64 + GAP


def test_a_picture_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        write_panels(draw_panels([panel("one")], ""), tmp_path / "missing" / "figure.png")
