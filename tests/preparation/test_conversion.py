"""From an item to pieces: cut, too short, cut off by damage, with actions."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prelar_ray.errors import ConfigError
from prelar_ray.preparation.conversion import Converted, Converter, Finished, Piece
from prelar_ray.sources.geometry import Geometry
from prelar_ray.sources.selection import Selection
from prelar_ray.sources.source import Choice
from tests.preparation.sources import Made, made, picture


def convert(path: Path, line: str, actions: bool = False, **selection: int) -> list[Converted]:
    source = Made(made(path / "a.made", line), Choice(actions=actions))
    converter = Converter([source], Geometry(), Selection.model_validate(selection))
    return list(converter.convert(0, source.items()[0]))


def lengths(found: list[Converted]) -> list[int]:
    return [len(piece.frames) for piece in found if isinstance(piece, Piece)]


@given(length=st.integers(0, 40), most=st.integers(1, 12), least=st.integers(1, 12))
def test_pieces_hold_all_frames_in_order_but_a_remainder_that_is_too_short(length: int, most: int, least: int) -> None:
    least = min(least, most)
    with tempfile.TemporaryDirectory() as folder:
        found = convert(Path(folder), f"clip {length}", max_frames=most, min_frames=least)
    frames = [frame for piece in found if isinstance(piece, Piece) for frame in piece.frames]
    remainder = length % most
    kept = length if remainder == 0 or remainder >= least else length - remainder
    assert np.array_equal(frames, [picture(0, index) for index in range(kept)])
    assert all(size == most for size in lengths(found)[:-1])
    assert found[-1] == Finished(int(kept == 0), ())


def test_frames_before_damage_are_kept_and_the_reason_is_said(tmp_path: Path) -> None:
    found = convert(tmp_path, "clip 20 ends=7", max_frames=5)
    assert lengths(found) == [5, 2]
    assert found[-1] == Finished(0, (), "cut short after 7 pictures")


def test_a_choice_that_a_source_does_not_have_is_passed_on(tmp_path: Path) -> None:
    (refused,) = convert(tmp_path, "clip 20 refused")
    assert isinstance(refused, ConfigError)


def test_what_a_source_says_at_the_end_of_an_episode_arrives(tmp_path: Path) -> None:
    assert convert(tmp_path, "clip 3 odd")[-1] == Finished(0, ("odd colours",))


def test_actions_stay_with_their_frames_and_none_leads_into_a_piece(tmp_path: Path) -> None:
    pieces = convert(tmp_path, "clip 7", actions=True, max_frames=4)[:-1]
    assert [
        piece.actions[:, 0].tolist() for piece in pieces if isinstance(piece, Piece) and piece.actions is not None
    ] == [
        [0, 2, 3, 4],
        [0, 6, 7],
    ]
