"""The reference encoder with pretrained features: starts as its tower, folds batch norms, reads any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from colorize.reference.encoder_file import load_reference_encoder
from colorize.reference.feature_vision import (
    EfficientNetLite,
    FeatureReferenceEncoder,
    fold,
    resized_positions,
    with_features,
)
from colorize.reference.vision import ReferenceEncoder


@pytest.fixture(scope="module")
def published() -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    """A random EfficientNet-lite0 in the published layout, and the same network as timm builds it."""
    timm = pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.ndim == 1 and value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1 + name.endswith("weight"))
    tensors = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    names = ["_conv_stem.weight", *(f"_bn0.{part}" for part in NORM)]
    for number, block in enumerate(EfficientNetLite().blocks):
        layers = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
        for convolution, norm in layers[block.expand is None :]:
            root = f"_blocks.{number}."
            names += [f"{root}{convolution}.weight", *(f"{root}{norm}.{part}" for part in NORM)]
    return dict(zip(names, tensors.values())), network


NORM = ("weight", "bias", "running_mean", "running_var")


def tower() -> ReferenceEncoder:
    torch.manual_seed(0)
    return ReferenceEncoder(32, 8, 32, 1, 16, 24)


@torch.no_grad()
def test_folded_batch_norms_answer_as_the_published_network(published):
    tensors, network = published
    ours = EfficientNetLite().eval()
    ours.load_state_dict(fold(tensors))
    picture = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    theirs = network.blocks(network.bn1(network.conv_stem(picture)))
    answer = ours(picture)
    assert [tuple(tap.shape) for tap in answer] == [(1, 112, 6, 4), (1, 320, 3, 2)]
    assert torch.allclose(answer[-1], theirs, atol=1e-4 * float(theirs.abs().max()))


def test_another_network_is_refused():
    with pytest.raises(ValueError, match="no EfficientNet-lite0"):
        fold({"conv.weight": torch.zeros(1)})


@torch.no_grad()
def test_it_starts_as_its_tower(published):
    plain = tower()
    whole = load_reference_encoder(
        with_features(plain.visual.state_dict(), published[0]), {"colorize.head_width": "16"}
    )
    assert isinstance(whole, FeatureReferenceEncoder) and whole.image_size == 64
    assert whole.token_count == plain.token_count == 17
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(whole.tokens(pixels), plain.tokens(F.avg_pool2d(pixels, 2)), atol=1e-5)
    whole.knowledge.weight.normal_()
    assert not torch.allclose(whole.tokens(pixels), plain.tokens(F.avg_pool2d(pixels, 2)), atol=1e-2)


@torch.no_grad()
def test_any_size_gives_a_token_per_16_pixels():
    encoder = FeatureReferenceEncoder(32, 8, 32, 1, 16, 24).eval()
    assert encoder.encode(torch.zeros(1, 3, 100, 70)).shape == (1, 17, 24)
    assert encoder.encode(torch.zeros(1, 3, 100, 70), scale=2).shape == (1, 65, 24)
    assert encoder.tokens(torch.zeros(2, 3, 64, 160)).shape == (2, 1 + 4 * 10, 24)


def test_positions_of_another_grid_are_interpolated_and_the_class_keeps_its_own():
    positions = torch.arange(5.0)[:, None].repeat(1, 3)
    assert resized_positions(positions, (2, 2)) is positions
    wide = resized_positions(positions, (2, 6))
    assert wide.shape == (13, 3) and torch.equal(wide[0], positions[0])
    assert (wide[1:7].mean() - positions[1:3].mean()).abs() < 0.1


def test_other_patches_are_refused():
    with pytest.raises(ValueError, match="patches of 8 pixels"):
        FeatureReferenceEncoder(28, 14, 32, 1, 16, 24)
