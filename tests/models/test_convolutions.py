"""Image encoder, inverse dynamics encoder and image decoder."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prelar_ray.config import ConvConfig, HeadConfig, WorldModelConfig
from prelar_ray.errors import CheckpointError
from prelar_ray.models.image_decoder import ImageDecoder, image_log_prob
from prelar_ray.models.image_encoder import ImageEncoder
from prelar_ray.models.inverse_dynamics import InverseDynamicsEncoder
from prelar_ray.models.latent_action import GaussianAction
from prelar_ray.models.noise import Deterministic, Noise
from prelar_ray.models.resnet import fold_norms

SIZES = [
    (depth, stacks, layers, norm)
    for depth, stacks in ((8, 1), (2, 4))
    for layers in (1, 2)
    for norm in ("batch", "none")
]


def conv(depth: int = 4, stacks: int = 3, layers: int = 1, norm: str = "batch") -> ConvConfig:
    return ConvConfig.model_validate({"depth": depth, "stacks": stacks, "layers": layers, "norm": norm})


def inverse_config() -> WorldModelConfig:
    return WorldModelConfig(inverse_dynamics=conv(), inverse_dynamics_head=HeadConfig(hidden=6), latent_action=3)


def frames(*shape: int) -> Tensor:
    return torch.rand(*shape, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5


@pytest.mark.parametrize(("depth", "stacks", "layers", "norm"), SIZES)
def test_encoder_and_decoder_fit_for_every_choice_of_sizes(depth: int, stacks: int, layers: int, norm: str) -> None:
    config = conv(depth, stacks, layers, norm)
    encoder, decoder = ImageEncoder(config), ImageDecoder(5, config)
    assert encoder(frames(2, 1)).shape == (2, 1, encoder.size)
    assert decoder(torch.zeros(2, 1, 5)).shape == (2, 1, 3, 64, 64)


def test_embedding_of_the_published_depth_has_the_published_size() -> None:
    with torch.device("meta"):
        assert ImageEncoder(ConvConfig()).size == 3072


def test_each_frame_is_encoded_by_itself_in_evaluation() -> None:
    encoder = ImageEncoder(conv()).eval()
    image = frames(2, 3)
    torch.testing.assert_close(encoder(image)[1, 2], encoder(image[1, 2].unsqueeze(0))[0], rtol=1e-4, atol=1e-5)


def test_training_normalises_over_the_batch_and_remembers_its_statistics() -> None:
    encoder = ImageEncoder(conv())
    image = frames(2, 2)
    evaluated = encoder.eval()(image)
    trained = encoder.train()(image)
    assert (trained - evaluated).abs().max() > 1e-2
    assert (encoder.eval()(image) - evaluated).abs().max() > 1e-3, "running statistics moved"


def test_without_norm_training_and_evaluation_agree() -> None:
    encoder = ImageEncoder(conv(norm="none"))
    image = frames(2, 2)
    assert torch.equal(encoder.train()(image), encoder.eval()(image))


def test_folded_norms_compute_what_evaluation_does() -> None:
    torch.manual_seed(0)
    config = conv(stacks=2, layers=2)
    encoder = ImageEncoder(config).double()
    for part in encoder.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.weight)
            torch.nn.init.normal_(part.bias)
    image = frames(3, 2).double()
    encoder.train()(image)  # statistics that are not those of initialisation
    folded = ImageEncoder(config.model_copy(update={"norm": "none"})).double()
    folded.load_state_dict(fold_norms(encoder.state_dict()))
    expected = encoder.eval()(image)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(folded(image), expected)


def test_a_norm_that_is_not_all_there_is_named() -> None:
    state = ImageEncoder(conv()).state_dict()
    del state["trunk.stacks.1.0.skip.1.running_var"]
    wanted = r"lacks trunk\.stacks\.1\.0\.skip\.1\.running_var, which belongs to trunk\.stacks\.1\.0\.skip\.1\."
    with pytest.raises(CheckpointError, match=wanted):
        fold_norms(state)


def test_latent_action_depends_on_its_two_frames_only_and_on_their_order() -> None:
    torch.manual_seed(0)
    inverse = InverseDynamicsEncoder(inverse_config()).eval()
    image = frames(1, 5)
    latent = inverse(image)
    assert latent.mean.shape == latent.std.shape == (1, 4, 3)

    changed = image.clone()
    changed[:, 2] = -changed[:, 2]
    moved = (inverse(changed).mean - latent.mean).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [False, True, True, False]  # pairs (0, 1), (1, 2), (2, 3), (3, 4)

    backwards = inverse(image.flip(1)).mean.flip(1)
    assert (backwards - latent.mean).abs().min() > 1e-6


def test_standard_deviation_of_latent_actions_lies_between_zero_and_two() -> None:
    inverse = InverseDynamicsEncoder(inverse_config()).eval()
    with torch.no_grad():
        inverse.out.bias.fill_(50.0)
        assert 1.99 < inverse(frames(1, 2)).std.min() <= 2
        inverse.out.bias.fill_(-5.0)
        assert 0 < inverse(frames(1, 2)).std.max() < 0.5


def test_latent_action_sample_moves_from_the_mean_by_noise_times_deviation() -> None:
    latent = GaussianAction(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.1]))
    assert torch.equal(latent.sample(Deterministic()), latent.mean)
    normal = Noise(0).normal(2)
    torch.testing.assert_close((latent.sample(Noise(0)) - latent.mean) / latent.std, normal)


def test_image_likelihood_is_the_unit_gaussian_without_its_constant() -> None:
    mean, image = frames(2, 3), frames(2, 3).flip(0)
    expected = torch.distributions.Normal(mean, 1.0).log_prob(image) + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(image_log_prob(mean, image), expected.sum(dim=(-3, -2, -1)), rtol=1e-4, atol=1e-2)
