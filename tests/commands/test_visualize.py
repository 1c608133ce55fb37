from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prelar_ray.checkpoint.transfer import load_pretrained
from prelar_ray.commands import visualize
from prelar_ray.config import VideoConfig
from prelar_ray.reporting.rollouts import FramePanel
from prelar_ray.video.store import VideoWriter

Refused = Callable[..., str]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[FramePanel]]:
    """The panels of every picture, which are drawn all the same."""
    seen: list[list[FramePanel]] = []
    draw = visualize.draw_panels
    monkeypatch.setattr(visualize, "draw_panels", lambda panels, heading: seen.append(panels) or draw(panels, heading))
    return seen


def test_a_picture_has_the_two_panels_of_the_figure_and_the_clips(
    pretrained: Path, tmp_path: Path, drawn: list[list[FramePanel]]
) -> None:
    out = tmp_path / "new" / "figure.png"
    assert visualize.main([str(pretrained), "--out", str(out), "--steps", "5"]) == 0
    with Image.open(out) as image:
        assert image.width > 600
        assert np.asarray(image.convert("L")).std() > 5
    one_start, one_sequence, clips = drawn[0]
    for panel in drawn[0]:
        assert [rows.shape for rows in panel.rows] == [(6, 64, 64, 3)] * 3
    assert all(np.array_equal(rows[0], one_start.rows[0][0]) for rows in one_start.rows)
    for row in range(3):  # frames of different videos, unchanged
        np.testing.assert_array_equal(one_sequence.rows[row][0], clips.rows[row][0])
    assert len({rows[0].tobytes() for rows in one_sequence.rows}) == 3
    np.testing.assert_array_equal(one_start.rows[0], one_sequence.rows[0])  # the same frame, the same sequence


def test_samples_of_the_prior_have_no_clips_to_compare_with(
    pretrained: Path, tmp_path: Path, drawn: list[list[FramePanel]]
) -> None:
    for seed in ("1", "1", "2"):
        arguments = ["--from", "prior", "--steps", "3", "--seed", seed]
        assert visualize.main([str(pretrained), "--out", str(tmp_path / f"{seed}.png"), *arguments]) == 0
    assert [panel.labels[0] for panel in drawn[0]] == ["sample 1", "scene 1"]
    one, again, other = ([rows.tobytes() for panel in panels for rows in panel.rows] for panels in drawn)
    assert one == again
    assert one != other


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_other_kinds_of_pictures(pretrained: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"figure{suffix}"
    assert visualize.main([str(load_pretrained(pretrained).path), "--out", str(out), "--steps", "2"]) == 0
    assert out.stat().st_size > 1000


def test_what_cannot_be_drawn_is_refused_in_one_line(
    pretrained: Path, finetuned: Path, videos: Path, tmp_path: Path, refused: Refused
) -> None:
    out = tmp_path / "figure.png"
    for arguments, reason in (
        ((tmp_path / "nowhere",), "holds no checkpoint; name the folder of a pre-training run"),
        ((finetuned, "--videos", videos), "a finetune run infers no latent actions"),
        (
            (pretrained, "--steps", 8),
            f"--steps 8: 0 of the 3 videos in {videos} have more than 8 frames, 3 are needed",
        ),
    ):
        error = refused(visualize.main, *arguments, "--out", out, code=2)
        assert reason in error
        assert len(error.splitlines()) == 1
    for steps in (0, "x"):
        error = refused(visualize.main, pretrained, "--out", out, "--steps", steps, code=2)
        assert f"--steps: {steps}: must be a whole number of at least 1" in error
    assert "must end in .png" in refused(visualize.main, pretrained, "--out", "figure.gif", code=2)
    assert not out.exists()


def test_held_out_episodes_are_drawn_where_there_are_enough(pretrained: Path, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "videos", {}, 100) as writer:
        for index in range(8):
            writer.append(np.full((5, 64, 64, 3), index, np.uint8), "test")

    def drawn(held_out: list[int]) -> set[int]:
        counters = {"held_out": held_out}  # of a run that did not note yet which videos it saw
        model = dataclasses.replace(load_pretrained(pretrained), counters=counters)
        clips = visualize._clips(model, VideoConfig(path=str(tmp_path / "videos")), 3, 0)
        assert clips.shape == (3, 4, 64, 64, 3)
        return set(clips[:, 0, 0, 0, 0].tolist())

    assert drawn([1, 4, 6]) == {1, 4, 6}
    assert drawn([1, 4, 6, 7]) < {1, 4, 6, 7}
    assert len(drawn([4])) == 3
