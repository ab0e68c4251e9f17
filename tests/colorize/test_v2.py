"""What v2 adds to the networks, against literal transcriptions: warps, modulations, skips, encoders, sizes."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from colorize import names
from colorize.background.picture_encoder import PictureEncoder, background_context, merged_styles
from colorize.unet.config import unet_config_from_state_dict, unet_weights
from colorize.unet.decoder_guide import DecoderGuide, Modulation, Warp, figure_split
from colorize.unet.size_embedding import embed, ratio_scalars
from colorize.unet.unet import UNet
from tests import tiny

CONFIG = dataclasses.replace(tiny.CONFIG, region_ranks=(4, 4), v2=True)
UNET = "model.diffusion_model."


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(module, seed=0):
    module.load_state_dict(tiny.randomised(module, seed))
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def unet():
    return filled(UNet(CONFIG), 3)


@pytest.fixture(scope="module")
def guide(unet):
    """A DecoderGuide for latents of 8 x 8 with a background of 6 x 4 at the finest level."""
    sides = [block for block in (1, 2, 4, 8) for _ in range(3)][::-1]
    backgrounds = [
        random(1, max(1, 24 // side**2), width, seed=number)
        for number, (side, width) in enumerate(zip(sides, reversed(CONFIG.skip_widths), strict=True))
    ]
    styles = [random(1, module[0].normalized_shape[0], seed=40 + n) for n, module in enumerate(unet.style_modules)]
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    return DecoderGuide(backgrounds, styles, figure_split(mask))


def answer(unet, decoder=None, batch=1, control=None):
    x, context = random(1, 4, 8, 8, seed=1), random(1, 5, CONFIG.context_dim, seed=2)
    rows = [value.expand(batch, *value.shape[1:]) for value in (x, context)]
    return unet(rows[0], torch.full((batch,), 417.5), rows[1], control, decoder=decoder)


# -- the modules, token by token ---------------------------------------------------------------------------------------


def literal_warp(w, skip, tokens, heads):
    """One query at a time, one head at a time. skip (C, H, W), tokens (S, C) or None."""
    width, height, across = skip.shape
    t = [skip[:, y, x] for y in range(height) for x in range(across)]
    normed = [F.layer_norm(v, (width,), w["norm1.weight"], w["norm1.bias"]) for v in t]
    keys = normed if tokens is None else list(tokens)
    size, out = width // heads, []
    for value, query in zip(t, normed):
        q, answers = w["attn.to_q.weight"] @ query, []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = [float((w["attn.to_k.weight"] @ k)[part] @ q[part]) / math.sqrt(size) for k in keys]
            shares = [math.exp(s - max(scores)) for s in scores]
            values = [(w["attn.to_v.weight"] @ k)[part] for k in keys]
            answers.append(sum(share / sum(shares) * v for share, v in zip(shares, values)))
        value = value + w["attn.to_out.0.weight"] @ torch.cat(answers) + w["attn.to_out.0.bias"]
        inner = F.layer_norm(value, (width,), w["norm2.weight"], w["norm2.bias"])
        inner = w["ff.0.weight"] @ inner + w["ff.0.bias"]
        value = value + w["ff.2.weight"] @ (inner * torch.sigmoid(inner)) + w["ff.2.bias"]
        out.append(value)
    return torch.stack(out, dim=1).view(width, height, across)


@pytest.mark.parametrize("own", [False, True])
def test_warp(own):
    warp = filled(Warp(128))
    assert warp.attn.heads == 2  # of 64 channels
    skip, tokens = random(2, 128, 2, 3), None if own else random(2, 5, 128, seed=1)
    given = warp(skip, tokens)
    for row in range(2):
        expected = literal_warp(warp.state_dict(), skip[row], None if own else tokens[row], 2)
        torch.testing.assert_close(given[row], expected, atol=1e-5, rtol=1e-4)


def test_warp_of_one_background_for_all_rows():
    warp, skip, tokens = filled(Warp(64)), random(3, 64, 2, 2), random(1, 5, 64, seed=1)
    torch.testing.assert_close(warp(skip, tokens), warp(skip, tokens.expand(3, -1, -1)))


def test_modulation():
    modulation, h, emb, style = filled(Modulation(6, 4)), random(2, 4, 3, 5), random(2, 6, seed=1), random(1, 8, seed=2)
    w, given = modulation.state_dict(), modulation(h, emb, style)
    for row in range(2):
        s = style[0] + w["1.weight"] @ emb[row] + w["1.bias"]
        s = (s - s.mean()) / torch.sqrt(s.var(unbiased=False) + 1e-5) * w["0.weight"] + w["0.bias"]
        s = w["2.weight"] @ s + w["2.bias"]
        for channel in range(4):
            expected = h[row, channel] * (1 + s[channel]) + s[4 + channel]
            torch.testing.assert_close(given[row, channel], expected, atol=1e-5, rtol=1e-5)


# -- who is background -------------------------------------------------------------------------------------------------


def test_skips_are_warped_where_the_mask_is_not_above_the_threshold():
    """Place by place, ties are background; every figure of a cast keeps its own skip."""
    warp, skip, tokens = filled(Warp(64)), random(1, 64, 4, 4), random(1, 5, 64, seed=1)
    masks = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(5))
    masks[:, :, 0] = 0.25
    given = DecoderGuide([tokens], split=figure_split(masks, 0.25)).skip(0, warp, skip)
    warped = warp(skip, tokens)
    for y in range(4):
        for x in range(4):
            source = skip if masks[0, :, y, x].max() > 0.25 else warped
            assert torch.equal(given[0, :, y, x], source[0, :, y, x])
    assert torch.equal(given[:, :, 0], warped[:, :, 0])


def test_masks_are_resized_bicubically_to_the_skip():
    warp, skip, tokens = filled(Warp(64)), random(1, 64, 3, 2), random(1, 5, 64, seed=1)
    mask = torch.rand(1, 1, 12, 8, generator=torch.Generator().manual_seed(6))
    figure = F.interpolate(mask, (3, 2), mode="bicubic", align_corners=False) > 0.4
    assert 0 < figure.sum() < 6
    given = DecoderGuide([tokens], split=figure_split(mask, 0.4)).skip(0, warp, skip)
    assert torch.equal(given, torch.where(figure, skip, warp(skip, tokens)))


def test_soft_masks_blend():
    warp, skip, tokens = filled(Warp(64)), random(1, 64, 4, 4), random(1, 5, 64, seed=1)
    mask = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(7))
    given = DecoderGuide([tokens], split=figure_split(mask, soft=True)).skip(0, warp, skip)
    torch.testing.assert_close(given, mask * skip + (1 - mask) * warp(skip, tokens))


# -- in the U-Net ------------------------------------------------------------------------------------------------------


def test_an_empty_guide_changes_nothing(unet):
    plain = answer(unet)
    mask = torch.zeros(1, 1, 8, 8)
    assert torch.equal(answer(unet, DecoderGuide(split=figure_split(mask))), plain)
    weights = {key: value for key, value in unet.state_dict().items() if not key.startswith(("warp_", "style_"))}
    same = UNet(dataclasses.replace(CONFIG, v2=False, region_ranks=None)).eval()
    same.load_state_dict({key: value for key, value in weights.items() if ".lora_" not in key})
    assert torch.equal(answer(same), plain)


def test_a_figure_everywhere_keeps_all_skips(unet, guide):
    everywhere = figure_split(torch.ones(1, 1, 8, 8))
    assert torch.equal(answer(unet, DecoderGuide(guide.backgrounds, split=everywhere)), answer(unet))


def test_every_entry_reaches_its_own_block(unet, guide):
    """Exchanging the tokens or the vector of any one block changes the answer."""
    guide = dataclasses.replace(guide, split=None)  # the half figure covers all of the coarsest map
    whole = answer(unet, guide)
    for name in ("backgrounds", "styles"):
        for number in range(12):
            entries = list(getattr(guide, name))
            entries[number] = entries[number] + 1
            assert not torch.equal(answer(unet, dataclasses.replace(guide, **{name: entries})), whole), (name, number)


def test_rows_of_a_batch(unet, guide):
    each = answer(unet, guide, batch=3)
    assert (each - answer(unet, guide)).abs().max() < 1e-4


def test_region_weights_are_in_the_decoder_only(unet):
    names = [key for key in unet.state_dict() if ".lora_" in key]
    assert names and all(key.startswith("output_blocks.") for key in names)


def test_other_families_refuse_a_guide(guide):
    with pytest.raises(ValueError, match="no warp and style modules"):
        answer(filled(UNet(tiny.CONFIG)), guide)


def test_zeroed_layers_start_as_the_model_before():
    """As released: a new warp only adds attention, a new modulation nothing."""
    network = UNet(CONFIG)
    network.zero_output_layers()
    assert not any(module.ff[2].weight.any() for module in network.warp_modules)
    h, emb, style = random(1, 128, 2, 2), random(1, 256), random(1, 256)
    assert torch.equal(network.style_modules[0](h, emb, style), h)


# -- the encoders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [False, True])
def test_encoders_answer_what_the_decoder_reads(unet, style):
    config = dataclasses.replace(CONFIG, y_width=32)
    encoder = filled(PictureEncoder(config, style))
    latent, tokens, y = random(2, 4, 8, 16), random(2, 5, CONFIG.context_dim, seed=1), random(2, 32, seed=2)
    answers = encoder(latent, tokens, y)
    assert len(answers) == 12
    for number, given in enumerate(answers):
        if style:
            assert given.shape == (2, unet.style_modules[number][0].normalized_shape[0])
        else:
            assert given.shape == (
                2,
                128 // 4 ** (3 - number // 3),
                unet.warp_modules[number].norm1.normalized_shape[0],
            )
    again = PictureEncoder.from_state_dict(
        {f"x.{key}": value for key, value in encoder.state_dict().items()}, "x.", config.num_head_channels
    )
    assert again.style is style
    assert all(map(torch.equal, again(latent, tokens, y), answers))


def test_a_style_is_the_mean_of_the_features_and_a_background_is_read_row_by_row():
    """Both encoders with the same weights but the last layers, which are made the identity."""
    config = dataclasses.replace(CONFIG, y_width=32, channel_mult=(1, 1, 1, 1))
    background, style = filled(PictureEncoder(config)), filled(PictureEncoder(config, style=True))
    shared = {key: value for key, value in background.state_dict().items() if not key.startswith("zero_layers")}
    style.load_state_dict(shared, strict=False)
    for layer in (*background.zero_layers, *style.zero_layers):
        torch.nn.init.dirac_(layer.weight) if layer.weight.ndim == 4 else torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    inputs = random(1, 4, 8, 8), random(1, 5, CONFIG.context_dim, seed=1), random(1, 32, seed=2)
    for tokens, vector in zip(background(*inputs), style(*inputs), strict=True):
        torch.testing.assert_close(vector[:, : tokens.shape[2]], tokens.mean(dim=1), atol=1e-5, rtol=1e-4)


def test_the_released_names_are_ours(golden_keys):
    """Every tensor of the released U-Net and encoders has its place, and no place is left."""
    keys = golden_keys("v2")
    config = unet_config_from_state_dict(keys, UNET)
    assert config.v2 and config.region_ranks == (4, 4)
    with torch.device("meta"):
        unet = UNet(config)
    unet.load_state_dict(unet_weights(keys, UNET), assign=True)
    for prefix, style in ((names.BACKGROUND_ENCODER, False), (names.STYLE_ENCODER, True)):
        told = unet_config_from_state_dict(keys, prefix, reads_reference=False)
        assert told.y_width == 512 and told.context_dim == 1024
        encoder = PictureEncoder(told, style, device="meta")
        encoder.load_state_dict(unet_weights(keys, prefix), assign=True)


def test_which_tokens_a_background_is_read_with():
    own, theirs = random(1, 2, 3), random(1, 2, 3, seed=1)
    assert background_context(own, None) is own
    for style in (False, True):
        assert background_context(own, theirs, style) is theirs
    assert background_context(own, theirs, with_style=True, variant="released") is own
    with pytest.raises(ValueError, match="'old' is unknown; choose one of paper, released"):
        background_context(own, theirs, variant="old")


def test_merged_styles():
    ours, theirs = [torch.ones(1, 2)], [torch.full((1, 2), 3.0)]
    assert torch.equal(merged_styles(ours, theirs, 0.25)[0], torch.full((1, 2), 1.5))
    assert torch.equal(merged_styles(ours, theirs, 0.0)[0], ours[0])


def test_ratios():
    assert ratio_scalars((300, 200), (150, 100)).tolist() == [[2.0, 2.0]]
    # 100 x 80 is smaller than 128 x 96: 100 + 128 high, and as wide as its proportions make it.
    expected = [228 / 128, 0.8 * 228 / 96]
    assert ratio_scalars((100, 80), (128, 96), batch=2).tolist() == [pytest.approx(expected)] * 2
    assert embed(ratio_scalars((300, 200), (150, 100))).shape == (1, 512)
