"""Context of ContextWM: one frame per sequence, masked, seen by the decoder alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prelar_ray.config import ContextConfig, ConvConfig, load_config
from prelar_ray.errors import ConfigError
from prelar_ray.models.context import ContextAttention, ContextEncoder, SceneContext
from prelar_ray.models.image_decoder import ImageDecoder
from prelar_ray.models.noise import Deterministic, Noise

CONV = ConvConfig(depth=2, layers=2)
B, T = 3, 5


def frames() -> Tensor:
    return torch.rand(B, T, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5


def encode(mask: float, noise: Noise, image: Tensor | None = None) -> dict[int, SceneContext]:
    torch.manual_seed(0)
    encoder = ContextEncoder(CONV, ContextConfig(enabled=True, mask=mask)).eval()
    with torch.no_grad():
        return encoder(frames() if image is None else image, noise)


def test_feature_maps_below_32_pixels_take_part_with_a_quarter_of_their_positions():
    contexts = encode(0.75, Noise(0))
    assert {side: tuple(c.feature.shape) for side, c in contexts.items()} == {16: (B, 256, 4), 8: (B, 64, 8)}
    assert {side: tuple(c.visible.shape) for side, c in contexts.items()} == {16: (B * T, 64), 8: (B * T, 16)}
    for context in contexts.values():
        assert all(len(set(row)) == len(row) for row in context.visible.tolist())
        assert len({tuple(row) for row in context.visible.tolist()}) == B * T, "each frame has a mask of its own"


def test_the_context_is_one_frame_of_the_own_sequence_chosen_at_random():
    image = frames()
    chosen = set()
    for seed in range(40):
        feature = encode(0.0, Noise(seed))[8].feature
        for b in range(B):
            candidates = [encode(0.0, Deterministic(), image[:, t : t + 1])[8].feature[b] for t in range(T)]
            matches = [t for t in range(T) if torch.allclose(feature[b], candidates[t], atol=1e-6)]
            assert len(matches) == 1
            chosen.add((b, matches[0]))
        if len(chosen) == B * T:
            break
    assert len(chosen) == B * T


def test_attention_sees_visible_positions_and_no_others():
    torch.manual_seed(0)
    attention = ContextAttention(8, 4, "none", ContextConfig(enabled=True)).eval()
    x, feature = torch.randn(2, 8, 4, 4), torch.randn(1, 16, 8)
    visible = torch.tensor([[0, 1, 2], [3, 4, 5]])

    def changes(position: int) -> list[bool]:
        other = feature.clone()
        other[0, position] += 1
        before, after = (attention(x, SceneContext(f, visible)) for f in (feature, other))
        return [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]

    assert changes(1) == [True, False]
    assert changes(4) == [False, True]
    assert changes(9) == [False, False]


def test_the_decoder_paints_what_only_the_context_knows():
    """The latent feature is constant; the scene differs by sequence. Only the context can tell the decoder which."""
    torch.manual_seed(0)
    config = ContextConfig(enabled=True, dropout=0.0)
    encoder, decoder = ContextEncoder(CONV, config), ImageDecoder(4, CONV, config)
    colours = torch.tensor([-0.4, 0.0, 0.4]).view(B, 1, 1, 1, 1)
    image = colours.expand(B, T, 3, 64, 64).contiguous()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
    noise = Noise(0)
    errors = []
    for _ in range(60):
        error = (decoder(torch.zeros(B, T, 4), encoder(image, noise)) - image).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.2 * image.var()


def test_a_decoder_with_context_refuses_to_do_without():
    decoder = ImageDecoder(4, CONV, ContextConfig(enabled=True))
    with pytest.raises(ValueError, match="context"):
        decoder(torch.zeros(1, 1, 4))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("world_model.context.heads=5", r"world_model\.context\.heads=5 does not divide"),
        ("world_model.decoder.layers=1", r"make world_model\.decoder equal to world_model\.encoder"),
        ("world_model.context.mask=1.0", r"world_model\.context\.mask=1\.0: must be < 1"),
    ],
)
def test_contexts_that_do_not_fit_are_refused(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(None, None, ["method=contextwm", override])
