from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prelar_ray.errors import DataError
from prelar_ray.sources.geometry import Box, Geometry
from prelar_ray.sources.placement import Orientation, Placement
from tests.sources.clips import asymmetric


def test_a_picture_of_the_size_of_the_store_is_not_resampled() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(Geometry().apply(picture), picture)
    assert np.array_equal(Geometry(rotate=90).apply(picture), np.rot90(picture))
    assert np.array_equal(Geometry(flip="both", fit="crop").apply(picture), picture[::-1, ::-1])


def test_fit_squeezes_crops_the_centre_or_adds_bars() -> None:
    wide = np.zeros((32, 128, 3), np.uint8)
    wide[:, 48:80] = 255
    assert Geometry().apply(wide)[:, 26:38].min() > 200
    assert Geometry(fit="crop").apply(wide).min() == 255
    padded = Geometry(fit="pad").apply(wide)
    assert padded[:24].max() == padded[40:].max() == 0
    assert padded[26:38, 26:38].min() > 200


def test_steps_follow_each_other_upright_crop_flip() -> None:
    picture = asymmetric(80, 100)
    box = Box(64, 64, 3, 20)
    expected = np.rot90(picture)[20:84, 3:67][::-1]
    assert np.array_equal(Geometry(rotate=90, crop=box, flip="rows").apply(picture), expected)


def test_a_crop_beyond_the_picture_is_refused_with_both_sizes() -> None:
    for box in (Box(10, 10, 95, 0), Box(10, 10, -1, 0), Box(0, 5, 0, 0), Box(10, 90, 0, 0)):
        with pytest.raises(DataError, match=r"--crop .* 100 x 80"):
            Geometry(crop=box).apply(asymmetric(80, 100))


GEOMETRIES = st.builds(
    Geometry,
    rotate=st.sampled_from(["auto", 0, 90, 180, 270]),
    flip=st.sampled_from(["none", "rows", "columns", "both"]),
    fit=st.sampled_from(["squeeze", "crop", "pad"]),
    crop=st.none() | st.builds(Box, st.integers(1, 50), st.integers(1, 50), st.integers(0, 40), st.integers(0, 40)),
)


@given(GEOMETRIES, st.integers(90, 130), st.integers(90, 130))
def test_scaling_first_gives_the_same_picture(geometry: Geometry, height: int, width: int) -> None:
    """Placement alone, with the same resampling: what turns, reverses and pads the small picture is exact."""
    picture = asymmetric(height, width) // 2 + 50  # nothing is cut off at 0 or 255 between the two passes
    placement = Placement.of(geometry, width, height, Orientation())
    box = placement.part
    part = picture[box.y : box.y + box.height, box.x : box.x + box.width]
    size = placement.width, placement.height
    scaled = np.asarray(Image.fromarray(np.ascontiguousarray(part)).resize(size, Image.Resampling.BICUBIC))
    assert np.abs(placement.finish(scaled).astype(int) - geometry.apply(picture)).max() <= 2


@given(st.integers(0, 3), st.booleans(), st.integers(1, 80), st.integers(1, 80))
def test_parts_stay_within_the_stored_picture(turns: int, mirrored: bool, width: int, height: int) -> None:
    for aspect in (Fraction(1), Fraction(128, 117), Fraction(1, 3)):
        orientation = Orientation(aspect, turns, mirrored)
        upright = orientation.size(width, height)
        for crop in (None, Box(1, 1, upright[0] - 1, upright[1] - 1), Box(1, 1, 0, 0)):
            part = Placement.of(Geometry(crop=crop, fit="crop"), width, height, orientation).part
            assert 0 <= part.x < part.x + part.width <= width
            assert 0 <= part.y < part.y + part.height <= height
