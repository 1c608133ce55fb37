"""Layer norm of feature maps, in all convolutional networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prelar_ray.config import ConvConfig, HeadConfig, WorldModelConfig
from prelar_ray.models.image_decoder import ImageDecoder
from prelar_ray.models.image_encoder import ImageEncoder
from prelar_ray.models.inverse_dynamics import InverseDynamicsEncoder
from prelar_ray.models.layer_norm import LayerNorm2d
from prelar_ray.models.resnet import fold_norms, folded_config

CONV = ConvConfig(depth=4, stacks=2, layers=2, norm="layer")


def frames(*shape: int) -> Tensor:
    return torch.rand(*shape, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5


def maps(*shape: int) -> Tensor:
    drawn = 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + 1
    return drawn.contiguous(memory_format=torch.channels_last)


def test_every_position_is_normalised_over_its_channels() -> None:
    """y = (x - mean_c x) / sqrt(var_c x + 1e-3) * weight + bias."""
    norm, x = LayerNorm2d(5).double(), maps(2, 5, 3, 4).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    distance = x - x.mean(1, keepdim=True)
    expected = distance / (distance.square().mean(1, keepdim=True) + 1e-3).sqrt()
    expected = expected * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    torch.testing.assert_close(norm(x), expected)
    assert torch.autograd.gradcheck(norm, x.requires_grad_(), fast_mode=True)


def test_the_result_stays_in_channels_last_and_may_be_written_to() -> None:
    norm, x = LayerNorm2d(5), maps(2, 5, 3, 4).requires_grad_()
    y = norm(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y._base is None, "the gradient of a view that was written to is slow"
    wanted = torch.autograd.grad(norm(x).relu().square().sum(), x)
    assert torch.equal(torch.autograd.grad(y.relu_().square().sum(), x)[0], wanted[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_width_maps_are_normalised_in_float32_and_stay_half_width(dtype: torch.dtype) -> None:
    norm, x = LayerNorm2d(5), maps(2, 5, 3, 4)
    with torch.autocast("cpu", dtype):
        found = norm(x.to(dtype))
    assert found.dtype == dtype
    assert torch.equal(found, norm(x.to(dtype).float()).to(dtype))


def test_training_and_evaluation_agree_and_no_frame_depends_on_the_others_of_its_batch() -> None:
    encoder, decoder = ImageEncoder(CONV), ImageDecoder(6, CONV)
    image = frames(3, 2)
    trained, evaluated = encoder.train()(image), encoder.eval()(image)
    assert torch.equal(trained, evaluated)
    torch.testing.assert_close(encoder(image[1:2]), trained[1:2], rtol=1e-4, atol=1e-5)
    assert trained.std() > 0.01
    feature = trained[..., :6]
    decoded = decoder.train()(feature)
    assert torch.equal(decoded, decoder.eval()(feature))
    torch.testing.assert_close(decoder(feature[1:2]), decoded[1:2], rtol=1e-4, atol=1e-5)


def test_latent_actions_of_a_clip_do_not_depend_on_other_clips() -> None:
    config = WorldModelConfig(inverse_dynamics=CONV, inverse_dynamics_head=HeadConfig(hidden=6), latent_action=3)
    inverse, image = InverseDynamicsEncoder(config).train(), frames(3, 3)
    torch.testing.assert_close(inverse(image).mean[1:2], inverse(image[1:2]).mean, rtol=1e-4, atol=1e-5)
    changed = torch.cat([image[:1] + 5, image[1:]])
    torch.testing.assert_close(inverse(changed).mean[1:], inverse(image).mean[1:], rtol=1e-4, atol=1e-5)


def test_acting_keeps_layer_norms_and_folds_batch_norms() -> None:
    encoder = ImageEncoder(CONV)
    assert fold_norms(encoder.state_dict()).keys() == encoder.state_dict().keys()
    assert folded_config(CONV) == CONV
    assert folded_config(ConvConfig()).norm == "none"
    assert not list(encoder.buffers()), "no statistics to keep"
