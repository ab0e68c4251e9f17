"""The U-Net of ColorizeDiffusion XL and its background plugin; the golden cases hold the numbers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from colorize.background.reference_net import ReferenceNet, plugin_input
from colorize.unet import layers, split_attention
from colorize.unet.config import HINT_BLOCKS, XL, UNetConfig, hint_blocks, unet_config_from_state_dict, unet_weights
from colorize.unet.split_attention import Split, SplitOptions
from colorize.unet.strengths import LevelStrengths
from colorize.unet.unet import UNet
from tests.golden import needs
from tests.golden.files import key_list
from tests.tiny import randomised

PREFIX = "model.diffusion_model."
SMALL = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2, 4),
    attention_levels=(1, 2),
    num_head_channels=16,
    context_dim=24,
    transformer_depth=(0, 1, 2),
    linear_projections=True,
    y_width=64,
)
DECODER = 9  # transformer blocks of its decoder


def small(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    network = UNet(config)
    network.load_state_dict(randomised(network, seed))
    return network.eval()


def inputs(batch: int = 2):
    torch.manual_seed(7)
    return {
        "x": torch.randn(batch, 4, 8, 16),
        "timesteps": torch.linspace(20.5, 900, batch),
        "context": torch.randn(batch, 6, 24),
        "control": [
            torch.randn(batch, width, *size)
            for width, size in ((32, (8, 16)), (32, (4, 8)), (64, (2, 4)), (128, (2, 4)))
        ],
        "y": torch.randn(batch, 64),
    }


def released(file: str, prefix: str) -> dict[str, list[int]]:
    keys = key_list(file, needs.full_set())
    return {k.removeprefix(prefix): shape for k, shape in keys.items() if k.startswith(prefix)}


@pytest.mark.parametrize(("file", "ranks"), (("sdxl.json", None), ("xlv2.json", (0, 4))))
def test_names_and_shapes_are_the_released_ones(file, ranks):
    keys = {PREFIX + k: torch.empty(shape, device="meta") for k, shape in released(file, PREFIX).items()}
    config = unet_config_from_state_dict(keys)
    assert config == dataclasses.replace(XL, region_ranks=ranks)
    network = UNet(config, device="meta")
    wanted = {key: tuple(value.shape) for key, value in unet_weights(keys).items()}
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == wanted
    assert len(network.attention_places) == 70 and network.decoder_start == 34


def test_the_plugin_has_the_released_names_and_shapes():
    keys = {f"bg_encoder.{k}": torch.empty(s, device="meta") for k, s in released("xlv2.json", "bg_encoder.").items()}
    config = unet_config_from_state_dict(keys, "bg_encoder.", reads_reference=False)
    network = ReferenceNet(config, device="meta")
    assert {f"bg_encoder.{k}": v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in keys.items()
    }
    assert len(network.attention_places) - network.decoder_start == 36


def test_sizes_are_read_from_tensors():
    weights = {PREFIX + key: value for key, value in small().state_dict().items()}
    assert unet_config_from_state_dict(weights, num_head_channels=16) == SMALL


def test_hints_go_where_the_resolution_changes():
    assert hint_blocks(4) == HINT_BLOCKS == (0, 3, 6, 9, 11)
    assert hint_blocks(3) == (0, 3, 6, 8)


@torch.no_grad()
def test_a_network_can_be_finished_several_times_from_one_beginning():
    network, given = small(), inputs()
    expected = network(**given)
    begun = network.begin(given["x"], given["timesteps"], given["control"], given["y"])
    readings = network.readings(given["context"])
    for _ in range(2):
        torch.testing.assert_close(network.finish(begun, readings)[0], expected, atol=0, rtol=0)
    assert len(begun.skips) == begun.blocks == 4  # blocks 0 to 3 have no attention


@torch.no_grad()
def test_kept_tokens_are_those_of_the_blocks_and_cost_no_further_blocks():
    network, given = small(), inputs()
    blocks = [block for module in network.modules() if isinstance(module, layers.SpatialTransformer)
              for block in module.transformer_blocks]  # fmt: skip
    seen = {}
    for number, block in enumerate(blocks):
        block.register_forward_hook(lambda m, i, o, n=number: seen.__setitem__(n, o[0]))
    begun = network.begin(given["x"], given["timesteps"], given["control"], given["y"])
    readings = network.readings(given["context"], keep={5: "output", 13: "output"})
    answer, kept = network.finish(begun, readings, answer=False)
    assert answer is None and max(seen) == 13
    torch.testing.assert_close(kept[0], seen[5])
    torch.testing.assert_close(kept[1], seen[13])
    whole, again = network.finish(begun, readings)
    assert len(again) == 2
    torch.testing.assert_close(whole, network(**given), atol=0, rtol=0)


def test_kept_tokens_carry_gradients_through_checkpointing():
    network, given = small(), inputs()
    context, gradients = given["context"].requires_grad_(), []
    for network.gradient_checkpointing in (False, True):
        begun = network.begin(given["x"], given["timesteps"], given["control"], given["y"])
        _, kept = network.finish(begun, network.readings(context, keep={5: "output", 13: "normed"}), answer=False)
        gradients.append(torch.autograd.grad(sum(k.square().mean() for k in kept), context)[0])
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_y_is_required_where_it_is_read():
    network, given = small(), inputs()
    with pytest.raises(ValueError, match="reads a vector y of width 64"):
        network(**{**given, "y": None})
    plain = small(dataclasses.replace(SMALL, y_width=0))
    with pytest.raises(ValueError, match="no vector y"):
        plain(**given)


def test_wrong_numbers_of_strengths_and_banks_are_refused():
    network, given = small(), inputs()
    count = len(network.attention_places)
    with pytest.raises(ValueError, match=f"3 strengths are given, but this U-Net has {count}"):
        network(**given, strengths=[1.0] * 3)
    with pytest.raises(ValueError, match=f"2 banks are given, but this U-Net has {DECODER}"):
        network(**given, banks=[torch.zeros(1, 8, 128)] * 2)
    with pytest.raises(ValueError, match="transformer_depth has 2 numbers for 3 levels"):
        dataclasses.replace(SMALL, transformer_depth=(1, 2))


def test_the_middle_block_is_the_bottom_level_at_any_depth():
    places = small().attention_places
    strengths = LevelStrengths(bottom=0.25, low=0.5).of(places)
    parts = [place.part for place in places]
    assert {s for s, part in zip(strengths, parts, strict=True) if part == "bottom"} == {0.25}


# -- banks -------------------------------------------------------------------------------------------------------------


def plugin(seed: int = 3) -> ReferenceNet:
    network = ReferenceNet(dataclasses.replace(SMALL, in_channels=6, y_width=128))
    network.load_state_dict(randomised(network, seed))
    return network.eval()


@torch.no_grad()
def test_the_plugin_answers_what_its_decoder_attention_reads():
    network, background, y = plugin(), torch.randn(1, 6, 8, 16), torch.randn(1, 128)
    banks = network(background, y)
    assert len(banks) == DECODER
    assert [tuple(bank.shape) for bank in banks] == [(1, 8, 128)] * 6 + [(1, 32, 64)] * 3
    inside = []
    for module in network.output_blocks:
        for layer in module:
            for block in getattr(layer, "transformer_blocks", ()):
                block.norm1.register_forward_hook(lambda m, i, o: inside.append(o))
    network(background, y)
    for bank, seen in zip(banks, inside, strict=True):
        torch.testing.assert_close(bank, seen)


@torch.no_grad()
def test_the_plugin_reads_pictures_of_any_sides():
    banks = plugin()(torch.randn(1, 6, 8, 3), torch.randn(1, 128))
    assert {bank.shape[1] for bank in banks} == {4 * 2, 2 * 1}


@torch.no_grad()
def test_without_regions_everybody_reads_the_bank():
    attention, x = small().output_blocks[0][1].transformer_blocks[0].attn1, torch.randn(2, 8, 128)
    bank = torch.randn(1, 5, 128)
    block = small().output_blocks[0][1].transformer_blocks[0]
    reading = layers.Reading(None, bank=bank)
    keys = torch.cat([x, bank.expand(2, -1, -1)], dim=1)
    torch.testing.assert_close(block._look_around(x, reading, (2, 4)), attention(x, keys))


@torch.no_grad()
def test_with_regions_the_background_reads_the_bank_alone():
    block = small().output_blocks[0][1].transformer_blocks[0]
    x, bank = torch.randn(1, 8, 128), torch.randn(1, 5, 128)
    masks = torch.zeros(1, 2, 2, 4)
    masks[0, 0, :, 0] = 1  # two figures, of which the plugin makes one
    masks[0, 1, :, 1] = 1
    split = Split([torch.zeros(1, 2, 24)] * 3, masks, SplitOptions((None,) * 3, (1.0,) * 3))
    reading = layers.Reading(None, bank=bank, bank_split=split.against_background(split_attention.BANK_OPTIONS))
    answer = block._look_around(x, reading, (2, 4))
    figure = masks.amax(1).flatten().bool()
    torch.testing.assert_close(answer[:, figure], block.attn1(x[:, figure], x))
    torch.testing.assert_close(answer[:, ~figure], block.attn1(x[:, ~figure], bank))
    assert split.against_background(split_attention.BANK_OPTIONS) is reading.bank_split  # its plans are made once


@torch.no_grad()
def test_a_plugin_for_training_starts_as_the_unet():
    """With no masks and no y the copy is the U-Net without its reference."""
    network = small()
    copy = ReferenceNet.from_unet(network, y_width=128)
    first = copy.input_blocks[0][0].weight
    torch.testing.assert_close(first[:, :4], network.input_blocks[0][0].weight)
    assert first[:, 4:].abs().max() == 0
    assert not [key for key in copy.state_dict() if "attn2" in key or key.startswith("out.")]
    torch.testing.assert_close(copy.label_emb[0][0].weight[:, :64], network.label_emb[0][0].weight)
    x, y = torch.randn(1, 4, 8, 16), torch.randn(1, 64)
    banks = copy(torch.cat([x, torch.randn(1, 2, 8, 16)], dim=1), torch.cat([y, torch.zeros(1, 64)], dim=1))
    assert len(banks) == DECODER


def test_files_without_plugin_are_refused():
    with pytest.raises(ValueError, match="bg_encoder.input_blocks.0.0.weight"):
        ReferenceNet.from_state_dict({})


def test_plugin_input_reduces_both_masks():
    masks = torch.zeros(1, 1, 64, 128), torch.ones(1, 1, 30, 50)
    given = plugin_input(torch.full((1, 4, 8, 16), 2.0), *masks)
    assert given.shape == (1, 6, 8, 16)
    assert given[:, 4].max() == 0 and given[:, 5].min() == pytest.approx(1, abs=1e-5)
