from __future__ import annotations

import torch

from prelar_ray.models.preprocess import postprocess_image, preprocess_image

# Every pixel value, in two frames of 8x16 pixels, channels last.
FRAMES = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(2, 8, 16, 3)


def test_frames_become_channels_first_floats_from_minus_to_plus_one_half() -> None:
    image = preprocess_image(FRAMES)
    assert image.dtype == torch.float32
    assert image.shape == (2, 3, 8, 16)
    assert (image.min().item(), image.max().item()) == (-0.5, 0.5)
    torch.testing.assert_close(image[1, 2, 3, 4], FRAMES[1, 3, 4, 2] / 255 - 0.5)


def test_every_pixel_value_survives_the_way_there_and_back() -> None:
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(postprocess_image(preprocess_image(FRAMES, dtype)), FRAMES)


def test_frames_themselves_are_left_as_they_are() -> None:
    before = FRAMES.clone()
    preprocess_image(FRAMES)
    assert torch.equal(FRAMES, before)


def test_decoded_values_outside_the_range_are_clipped() -> None:
    image = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0]).reshape(5, 1, 1, 1)
    assert postprocess_image(image).flatten().tolist() == [0, 0, 128, 255, 255]
