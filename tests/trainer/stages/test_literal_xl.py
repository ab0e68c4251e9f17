"""Stages xl, xl_plugin and xl_lora: the loss of a step against the paper's equations, written out (tests/literal).

As in test_literal.py. Autoencoder, CLIP tower, tagger and sketch encoder are the stage's own here; the U-Net, the token
projection and the background plugin are transcribed.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from tests import tiny, tiny_xl
from tests.literal import steps
from tests.literal.attention import Regions
from tests.literal.layers import sinusoid
from tests.literal.reference import projection
from tests.literal.unet import unet
from tests.literal.weights import Weights
from tests.scripted import Scripted
from tests.trainer.stages.test_literal import OFFSET, SIDE, in_range, lines_of, normal, picture_of, soft_mask, to_latent
from trainer import config as configuration
from trainer.stages.table import build_stage

CONFIG, T = tiny_xl.CONFIG, [60, 650]
SIZES = dict(
    model_channels=CONFIG.model_channels,
    channel_mult=CONFIG.channel_mult,
    attention_levels=CONFIG.attention_levels,
    num_head_channels=CONFIG.num_head_channels,
    depths=CONFIG.transformer_depth,
    linear_projections=True,
    hints_after=(0, 3, 6, 8),
)
TOLD = 16  # values per number of y
LAST = (5, 13)  # the last transformer blocks of the lowest resolution, in encoder and decoder
DECODER = 8  # the decoder's first


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Random files: XL models without and with regions or plugin, the encoder and the tagger of all of them."""
    folder = tmp_path_factory.mktemp("models")
    encoder = tiny.reference_encoder(tiny_xl.CLIP_WIDTH)
    told = {"colorize.image_size": "56", "colorize.head_width": "16"}
    for name, tensors, metadata in (
        ("xl", tiny_xl.checkpoint(), tiny_xl.METADATA),
        ("xl_plugin", tiny_xl.checkpoint_plugin(), tiny_xl.METADATA),
        ("xl_lora", tiny_xl.checkpoint_regions(), tiny_xl.METADATA),
        ("encoder", encoder.state_dict(), told),
        ("tagger", tiny_xl.tagger_weights(), tiny_xl.TAGGER_METADATA),
    ):
        save_file(tiny.with_louder_stem(tensors), folder / f"{name}.safetensors", metadata=metadata)
    return {file.stem: str(file) for file in folder.iterdir()}


def stage_of(files, kind, loss, gram=None):
    model = {"init": files[kind], "encoder": files["encoder"], "tagger": files["tagger"], "prediction_type": "v"}
    values = {
        "run": {"stage": kind},
        "model": model,
        "data": {"folder": "unused", "size": SIDE, "reference": "self"},
        "loss": {"offset_noise": OFFSET, **loss},
        "gram": gram or {},
        "optimizer": {"batch": 2},
        "system": {"precision": "fp32", "channels_last": False},
    }
    return build_stage(configuration.build(values), torch.device("cpu"))


def batch_of():
    return {
        "color": picture_of(0, 3, SIDE),
        "sketch": picture_of(1, 1, SIDE),
        "reference": picture_of(2, 3, SIDE),
        "other_reference": picture_of(3, 3, SIDE),
        "mask": soft_mask(SIDE, (0.3, 0.4), (0.8, 0.2)),
        "reference_mask": soft_mask(SIDE, (0.7, 0.7), (0.2, 0.5)),
        "other_reference_mask": soft_mask(SIDE, (0.1, 0.6), (0.5, 0.5)),
        "index": torch.arange(2),
        "reference_index": torch.arange(2),
        "other_index": torch.arange(2),
        "size": torch.tensor([[900, 700, 64], [80, 120, 64]]),
        "score": torch.tensor([5.5, 6.25]),
        "crop": torch.tensor([[0.0, 0.1, 0.9, 1.0], [0.2, 0.0, 1.0, 0.7]]),
    }


def tokens_of(stage, weights, pictures):
    """Reference tokens of pictures in -1..1."""
    clip, tagger = stage.colorizer.reference_encoder.encode(pictures), stage.colorizer.tagger.tokens(pictures)
    width = tiny_xl.CLIP_WIDTH  # 64 does not divide it, so it is one head
    return projection(weights.under("proj."), clip, tagger, CONFIG.context_dim, width)


def weights_of(stage):
    tensors = dict(stage.state_dict())
    tensors |= {f"proj.{key}": value for key, value in stage.colorizer.projection.state_dict().items()}
    return Weights({key: value.detach() for key, value in tensors.items()})


def told(rows):
    """Numbers of every picture as one vector: sinusoid after sinusoid."""
    return torch.cat([torch.cat([sinusoid(torch.tensor([value]), TOLD) for value in row], dim=1) for row in rows])


def answer_of(weights, batch, noisy, reads, hints, taps=None):
    pairs = zip(batch["size"].tolist(), batch["score"].tolist(), strict=True)
    y = told([steps.told_size(size, (SIDE, SIDE), score) for size, score in pairs])
    return unet(weights.under("model.diffusion_model."), noisy, torch.tensor(T), reads, hints, y=y, taps=taps, **SIZES)


def latents_of(stage, pictures):
    return stage.colorizer.autoencoder.moments(pictures)[:, :4] * 0.13025


def erase(hints, draws, rate):
    """Every level of every picture whose draw (B, levels) is below the rate becomes zero."""
    for row, values in enumerate(draws.tolist()):
        for level, value in enumerate(values):
            if value < rate:
                hints[level][row] = 0.0


@torch.no_grad()
@pytest.mark.parametrize("variant", ["mse", "frobenius"])
def test_stage_xl(files, variant):
    """Eq. 1 to 3 of the XL paper: two branches that differ in the reference alone, lambda times their Gram loss."""
    loss = {"reference_drop": 0.8, "reference_drop_end": 0.5, "sketch_drop": 0.3, "reference_inpaint": 0.5}
    stage = stage_of(files, "xl", loss, {"weight": 3.0, "start": 0.2, "variant": variant})
    batch, progress = batch_of(), 0.25
    inpaint, kept = torch.tensor([[0.2, 0.6], [0.9, 0.5]]), torch.tensor([0.75, 0.70])
    levels = torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.6, 0.4, 0.1, 0.8]])
    noise, shift = normal(10, 2, 4, 8, 8), normal(11, 2, 4)
    draws = Scripted(
        [("rand", inpaint), ("rand", levels), ("timesteps", torch.tensor(T)), ("randn", noise)]
        + [("randn", shift), ("rand", kept)]
    )
    terms = stage(batch, draws, progress)
    assert draws.left == 0

    weights = weights_of(stage)
    latents = latents_of(stage, in_range(batch["color"]))
    level = [0.05 + 0.94 * value for value in inpaint[:, 1].tolist()]
    cut = [value < 0.5 for value in inpaint[:, 0].tolist()]
    others = batch["other_reference_mask"].float() / 255
    references = steps.without(
        in_range(batch["reference"]), others, lambda row, value: value < level[row] or not cut[row]
    )
    context = steps.dropped(tokens_of(stage, weights, references), kept, steps.rate_at(0.8, 0.5, progress))
    hints = list(stage.control_encoder(lines_of(batch["sketch"])))
    erase(hints, levels, 0.3)
    noise = steps.with_offset(noise, shift, OFFSET)
    noisy = steps.diffused(latents, noise, T)
    aligned, misaligned = [], []
    answer = answer_of(weights, batch, noisy, context, hints, aligned)
    answer_of(weights, batch, noisy, tokens_of(stage, weights, in_range(batch["other_reference"])), hints, misaligned)
    found = steps.gram_loss(
        [aligned[place][1] for place in LAST], [misaligned[place][1] for place in LAST], variant == "mse"
    )
    expected = steps.squared_error(answer, latents, noise, T, "v")
    assert terms["denoising"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["gram"].item() == pytest.approx(3.0 * found, rel=1e-3) and found > 0


@torch.no_grad()
def test_the_gram_loss_begins_where_the_configuration_says(files):
    """Paper: lambda = 0 for the first 33 % of the steps, then 1."""
    stage = stage_of(files, "xl", {"reference_drop": 0.0}, {"weight": 1.0, "start": 0.33})
    for progress, found in ((0.0, False), (0.3299, False), (0.33, True), (0.5, True), (0.66, True)):
        answers = [("rand", torch.ones(2, 2)), ("rand", torch.ones(2, 4)), ("timesteps", torch.tensor(T))]
        answers += [("randn", normal(10, 2, 4, 8, 8)), ("randn", normal(11, 2, 4)), ("rand", torch.ones(2))]
        assert ("gram" in stage(batch_of(), Scripted(answers), progress)) == found, progress


@torch.no_grad()
@pytest.mark.parametrize("kind", ["xl_lora", "xl_plugin"])
@pytest.mark.parametrize("released", [False, True], ids=["paper", "released strategies"])
def test_the_region_stages(files, kind, released):
    """Split cross-attention on a frozen XL model; the plugin's banks are read by the background, soft edges by all."""
    bleach, plugin = 0.5, kind == "xl_plugin"
    loss = {"reference_drop": 0.8, "reference_drop_end": 0.5, "background_bleach": bleach}
    stage = stage_of(files, kind, loss | ({"reference_inpaint": 0.5, "sketch_drop": 0.3} if released else {}))
    batch, progress = batch_of(), 0.75
    inpaint = torch.tensor([[0.9, 0.6], [0.1, 0.5]])
    levels = torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.6, 0.4, 0.1, 0.8]])
    drawn, kept = torch.tensor([[0.30, 0.60], [0.75, 0.20]]), torch.tensor([0.60, 0.76])
    noise, shift = normal(20, 2, 4, 8, 8), normal(21, 2, 4)
    bleached, shade = torch.tensor([0.4, 0.9]), torch.tensor([[0.3], [0.8]])
    draws = Scripted(
        [("rand", drawn), ("rand", bleached), ("rand", shade)]
        + [("rand", inpaint), ("rand", levels)] * released
        + [("timesteps", torch.tensor(T)), ("randn", noise), ("randn", shift), ("rand", kept)]
    )
    terms = stage(batch, draws, progress)
    assert draws.left == 0 and set(terms) == {"denoising"}

    weights = weights_of(stage)
    ours, theirs = ([0.01 + 0.98 * value for value in column] for column in drawn.T.tolist())
    white = [value < bleach for value in bleached.tolist()]
    masks, reference_masks = (batch[name].float() / 255 for name in ("mask", "reference_mask"))
    references = in_range(batch["reference"])
    if released:
        others, level = batch["other_reference_mask"].float() / 255, 0.01 + 0.98 * 0.5
        references = steps.without(references, others, lambda row, value: row == 0 or value < level)
    background = steps.without(references, reference_masks, lambda row, value: value < theirs[row])
    for row in range(2):
        if white[row]:
            background[row] = 0.95 + 0.05 * shade[row]
    colours = steps.without(in_range(batch["color"]), masks, lambda row, value: value > ours[row] or not white[row])
    sketches = steps.without(
        batch["sketch"].float(), masks, lambda row, value: value > ours[row] or not (plugin or white[row]), 255.0
    )
    latents, hints = latents_of(stage, colours), list(stage.colorizer.sketch_encoder(lines_of(sketches)))
    if released:
        erase(hints, levels, 0.3)
    rate = steps.rate_at(0.8, 0.5, progress)
    sets = [steps.dropped(tokens_of(stage, weights, seen), kept, rate) for seen in (references, background)]
    banks = banks_of(stage, weights, background, masks, reference_masks, batch["crop"]) if plugin else None
    kinds = ("bg", "bg") if plugin else ("fg", "bg")
    reads = Regions(*sets, to_latent(batch["mask"]), ours, kinds, soft=plugin, banks=banks)
    noise = steps.with_offset(noise, shift, OFFSET)
    answer = answer_of(weights, batch, steps.diffused(latents, noise, T), reads, hints)
    expected = steps.squared_error(answer, latents, noise, T, "v")
    assert terms["denoising"].item() == pytest.approx(expected, rel=1e-4)


def banks_of(stage, weights, background, masks, reference_masks, crop):
    """What the plugin reads in a background, once and at t = 0: the inputs of the decoder's self-attentions."""
    latent = latents_of(stage, background)
    small = [F.interpolate(mask, latent.shape[-2:], mode="nearest") for mask in (masks, reference_masks)]
    taps, given = [], torch.cat([latent, *small], dim=1)
    nothing = torch.zeros(2)
    network = weights.under("bg_encoder.")
    unet(network, given, nothing, None, y=told(crop.tolist()), taps=taps, ends_early=True, **SIZES)
    return {number: taps[number][0] for number in range(DECODER, len(taps))}
