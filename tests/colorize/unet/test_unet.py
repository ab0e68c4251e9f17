"""The pure-torch U-Net against its literal transcription, and its tensor names against the released list."""

from __future__ import annotations

import pytest
import torch

from colorize.unet.config import UNetConfig, unet_config_from_state_dict
from colorize.unet.layers import timestep_embedding
from colorize.unet.unet import UNet
from tests.golden.files import key_list
from tests.literal.layers import sinusoid
from tests.literal.unet import unet as literal_unet
from tests.literal.weights import Weights

PREFIX = "model.diffusion_model."

SIZES = (
    dict(model_channels=32, channel_mult=(1, 1, 1, 2), num_head_channels=16),
    dict(model_channels=32, channel_mult=(1, 2, 3, 1), num_head_channels=32),
    dict(model_channels=64, channel_mult=(1, 1, 2, 2), num_head_channels=8, attention_levels=(1, 3)),
)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def control_maps(sizes, batch=2, height=8, width=16):
    mults = sizes["channel_mult"]
    places = ((1, 0), (mults[0], 1), (mults[1], 2), (mults[2], 3), (mults[3], 3))
    return [
        normal(50 + k, batch, sizes["model_channels"] * mult, height >> down, width >> down)
        for k, (mult, down) in enumerate(places)
    ]


def pair(sizes, context_dim=24, seed=0):
    """Our U-Net, and the same weights for the transcription."""
    torch.manual_seed(seed)
    network = UNet(UNetConfig(context_dim=context_dim, **sizes))
    shapes = network.state_dict()
    weights = Weights({k: torch.randn_like(v) * 0.3 / max(1, v[0].numel()) ** 0.5 for k, v in shapes.items()})
    network.load_state_dict(weights.tensors)
    return network.eval(), weights


@torch.no_grad()
@pytest.mark.parametrize("sizes", SIZES)
def test_equals_the_literal_transcription(sizes):
    network, weights = pair(sizes)
    x, context, t = normal(1, 2, 4, 8, 16), normal(2, 2, 7, 24), torch.tensor([981.0, 12.625])
    for control in (None, control_maps(sizes)):
        expected = literal_unet(weights, x, t, context, control, **sizes)
        torch.testing.assert_close(network(x, t, context, control), expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [(7, 10), (9, 2), (1, 1), (5, 16)])
def test_sides_need_no_multiple(size):
    """As ComfyUI's U-Nets; found by tests.fuzz, seed 1, graph 8531: the background plugin on a picture 16 px wide."""
    network, weights = pair(SIZES[0])
    x, context, t = normal(1, 2, 4, *size), normal(2, 2, 7, 24), torch.tensor([981.0, 12.625])
    expected = literal_unet(weights, x, t, context, **SIZES[0])
    assert expected.shape == x.shape
    torch.testing.assert_close(network(x, t, context), expected, atol=2e-5, rtol=1e-4)


def test_names_and_shapes_are_the_released_ones():
    released = {k.removeprefix(PREFIX): shape for k, shape in key_list("v1.json").items() if k.startswith(PREFIX)}
    network = UNet(UNetConfig(), device="meta")
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == released


def test_the_transcription_has_the_released_names_too():
    weights = Weights(device="meta")
    meta = dict(device="meta")
    literal_unet(weights, torch.empty(1, 4, 8, 8, **meta), torch.ones(1), torch.empty(1, 2, 1024, **meta))
    released = {k.removeprefix(PREFIX): shape for k, shape in key_list("v1.json").items() if k.startswith(PREFIX)}
    assert weights.shapes() == released


def test_timestep_embedding_is_cosines_then_sines():
    t = torch.tensor([0.0, 1.0, 437.6244, 999.0])
    torch.testing.assert_close(timestep_embedding(t, 32), sinusoid(t, 32), atol=1e-4, rtol=0)


@torch.no_grad()
def test_zero_tokens_of_any_number_are_the_same():
    """to_k and to_v have no bias, so "no reference" does not depend on the number of tokens."""
    network, _ = pair(SIZES[0])
    x, t = normal(1, 2, 4, 8, 8), torch.tensor([500.0, 500.0])
    one, many = (network(x, t, torch.zeros(2, count, 24)) for count in (1, 9))
    torch.testing.assert_close(one, many, atol=1e-6, rtol=0)


@torch.no_grad()
def test_rows_of_a_batch_do_not_touch():
    network, _ = pair(SIZES[0])
    x, context, t = normal(1, 3, 4, 16, 16), normal(2, 3, 4, 24), torch.tensor([10.0, 500.0, 990.0])
    together = network(x, t, context)
    for row in range(3):
        alone = network(x[row : row + 1], t[row : row + 1], context[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_gradient_checkpointing_changes_no_number():
    network, _ = pair(SIZES[0])
    x, context, t = normal(1, 1, 4, 16, 16), normal(2, 1, 4, 24), torch.tensor([300.0])
    gradients = []
    for network.gradient_checkpointing in (False, True):
        network.zero_grad()
        network(x, t, context, control_maps(SIZES[0], 1, 16, 16)).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=0, rtol=0)


@torch.no_grad()
def test_zeroed_output_layers_answer_zero():
    network, _ = pair(SIZES[0])
    network.zero_output_layers()
    answer = network(normal(1, 1, 4, 16, 16), torch.tensor([5.0]), normal(2, 1, 4, 24))
    assert answer.abs().max() == 0


@pytest.mark.parametrize("sizes", SIZES[:2])
def test_sizes_are_read_from_tensors(sizes):
    config = UNetConfig(context_dim=40, in_channels=6, **sizes)
    tensors = {PREFIX + k: v for k, v in UNet(config, device="meta").state_dict().items()}
    assert unet_config_from_state_dict(tensors, num_head_channels=config.num_head_channels) == config
    tensors["colorize.num_head_channels"] = torch.tensor(config.num_head_channels)
    assert unet_config_from_state_dict(tensors) == config


def test_bad_sizes_and_files_say_what_is_wrong():
    with pytest.raises(ValueError, match="48 do not divide"):
        UNetConfig(num_head_channels=48)
    with pytest.raises(ValueError, match="multiple of 32"):
        UNetConfig(model_channels=40, num_head_channels=8)
    with pytest.raises(ValueError, match="No U-Net found"):
        unet_config_from_state_dict({"a": torch.zeros(1)})
