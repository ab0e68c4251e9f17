"""Stages v1 and v1_5: the loss of a step against the papers' equations, written out (tests/literal).

Networks are random and small, random numbers are given, and the step is the stage's own `forward`. References have the
encoder's size, so that nothing is resampled. `python -m tests.mutations` shows what each of these tests notices.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from tests import tiny
from tests.literal import steps
from tests.literal.attention import ClassToken, Regions
from tests.literal.reference import recovered
from tests.literal.sketch_encoder import sketch_encoder
from tests.literal.unet import unet
from tests.literal.vision import normalised, tower
from tests.literal.weights import Weights
from tests.scripted import Scripted
from trainer import config as configuration
from trainer.models.colorizer import V1Colorizer
from trainer.stages.table import build_stage

SIDE, SEEN = 64, 56  # pixels of the drawing, and of the encoder's picture
SIZES = dict(model_channels=64, channel_mult=(1, 1, 1, 2), num_head_channels=32)
OFFSET = 0.05


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture_of(seed, channels, side, batch=2):
    """uint8 pictures of coarse squares and grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, channels, 4, 4, generator=generator)
    grain = torch.rand(batch, channels, side, side, generator=generator)
    return ((0.8 * F.interpolate(coarse, (side, side)) + 0.2 * grain) * 255).round().byte()


def soft_mask(side, *corners):
    """uint8 masks (B, 1, side, side) of 0..255: a soft disc around the corner (y, x) of each picture, 0..1."""
    places = torch.linspace(0, 1, side)
    rows = [
        ((places[:, None] - y) ** 2 + (places[None, :] - x) ** 2).sqrt().mul(-1.6).add(1.0).clamp(0, 1)
        for y, x in corners
    ]
    return (torch.stack(rows)[:, None] * 255).round().byte()


EPS = tiny.METADATA | {"colorize.prediction_type": "eps"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Random files: a v1 model, a v1.5 model on top of it, the reference encoder of both."""
    folder = tmp_path_factory.mktemp("models")
    encoder = tiny.reference_encoder()
    told = {"colorize.image_size": str(SEEN), "colorize.head_width": "16"}
    for name, tensors, metadata in (
        ("v1", tiny.checkpoint(), tiny.METADATA),
        ("cls", tiny.checkpoint(), EPS | {"colorize.tokens": "cls"}),
        ("v1_eps", tiny.checkpoint(), EPS),
        ("v1_5", tiny.checkpoint_v1_5(), tiny.METADATA_V1_5),
        ("encoder", encoder.state_dict(), told),
    ):
        save_file(tiny.with_louder_stem(tensors), folder / f"{name}.safetensors", metadata=metadata)
    return {name: str(folder / f"{name}.safetensors") for name in ("v1", "v1_eps", "cls", "v1_5", "encoder")}


def stage_of(files, kind, loss, prediction="v", tokens="local"):
    init = files["cls" if tokens == "cls" else kind if prediction == "v" else f"{kind}_{prediction}"]
    values = {
        "run": {"stage": kind},
        "model": {"init": init, "encoder": files["encoder"], "prediction_type": prediction, "tokens": tokens},
        "data": {"folder": "unused", "size": SIDE},
        "loss": {"offset_noise": OFFSET, **loss},
        "system": {"precision": "fp32", "channels_last": False},
    }
    return build_stage(configuration.build(values), torch.device("cpu"))


def weights_of(stage, files):
    """All tensors of the stage's networks by their names in a file, and those of the reference encoder."""
    colorizer = stage._colorizer[0]
    own = dict(stage.state_dict())
    own |= {f"control_encoder.{key}": value for key, value in colorizer.sketch_encoder.state_dict().items()}
    encoder = Weights(dict(colorizer.reference_encoder.network.visual.state_dict()))
    return Weights({key: value.detach() for key, value in own.items()}), encoder


def batch_of():
    return {
        "color": picture_of(0, 3, SIDE),
        "sketch": picture_of(1, 1, SIDE),
        "reference": picture_of(2, 3, SEEN),
        "mask": soft_mask(SIDE, (0.3, 0.4), (0.8, 0.2)),
        "reference_mask": soft_mask(SEEN, (0.7, 0.7), (0.2, 0.5)),
        "index": torch.arange(2),
        "reference_index": torch.arange(2),
    }


def local_tokens(encoder, pictures):
    """tau_phi: the tower's tokens of pictures in -1..1 without the class token."""
    return all_tokens(encoder, pictures)[:, 1:]


def all_tokens(encoder, pictures):
    sizes = dict(width=64, layers=2, head_width=16, output_dim=48, patch_size=14)
    return tower(encoder, normalised(pictures), **sizes)


def lines_of(sketches):
    """White lines (+1) on black (-1), three channels."""
    return (1 - sketches.float() / 127.5).expand(-1, 3, -1, -1)


def control_of(weights, sketches):
    widths = [SIZES["model_channels"] * mult for mult in SIZES["channel_mult"]]
    return sketch_encoder(weights.under("control_encoder."), lines_of(sketches), widths, SIZES["model_channels"])


def answer_of(weights, noisy, t, reads, control):
    return unet(weights.under("model.diffusion_model."), noisy, torch.tensor(t), reads, control, **SIZES)


def in_range(pictures):
    return pictures.float() / 127.5 - 1


# -- stage v1 ----------------------------------------------------------------------------------------------------------

T = [40, 700]
V1_CASES = {
    "eq 1 and 2": ({"reference_drop": 0.0}, "eps"),
    "eq 3": ({"reference_drop": 0.0, "noisy_reference": 1.0, "noisy_variant": "paper"}, "eps"),
    "eq 4": ({"reference_drop": 0.0, "dual_condition": 4.0}, "eps"),
    "drop that falls": ({"reference_drop": 0.8, "reference_drop_end": 0.5, "min_snr_gamma": 5.0}, "v"),
}


@torch.no_grad()
@pytest.mark.parametrize("name", V1_CASES)
def test_stage_v1(files, name):
    """Eq. 1 to 4 of the v1 paper. The draws tell both rates from those of a frozen and of a reversed schedule."""
    loss, prediction = V1_CASES[name]
    stage, batch, progress = stage_of(files, "v1", loss, prediction), batch_of(), 0.25
    noises, shifts = [normal(k, 2, 4, 8, 8) for k in (10, 11)], [normal(k, 2, 4) for k in (12, 13)]
    token_noise, kept = normal(14, 2, 16, 48), torch.tensor([0.75, 0.70])
    noisy, dual = "noisy_reference" in loss, "dual_condition" in loss
    draws = Scripted(
        [("timesteps", torch.tensor(T)), ("randn", noises[0]), ("randn", shifts[0])]
        + [("randn", token_noise)] * noisy
        + [("rand", kept)]
        + [("randn", noises[1]), ("randn", shifts[1])] * dual
    )
    terms = stage(batch, draws, progress)
    assert draws.left == 0

    weights, encoder = weights_of(stage, files)
    latents = stage._colorizer[0].autoencoder.encode(in_range(batch["color"]))
    tokens = local_tokens(encoder, in_range(batch["reference"]))
    if noisy:
        tokens = steps.noisy_reference(tokens, token_noise, T, "paper")
    rate = steps.rate_at(loss["reference_drop"], loss.get("reference_drop_end", loss["reference_drop"]), progress)
    tokens = steps.dropped(tokens, kept, rate)
    control = control_of(weights, batch["sketch"])

    def error(noise, shift, tokens):
        noise = steps.with_offset(noise, shift, OFFSET)
        answer = answer_of(weights, steps.diffused(latents, noise, T), T, tokens, control)
        return steps.squared_error(answer, latents, noise, T, prediction, loss.get("min_snr_gamma", 0.0))

    assert terms["denoising"].item() == pytest.approx(error(noises[0], shifts[0], tokens), rel=1e-4)
    if dual:
        blind = error(noises[1], shifts[1], torch.zeros_like(tokens))
        assert terms["dual"].item() == pytest.approx(4.0 * blind, rel=1e-4)
    assert set(terms) == {"denoising", *(["dual"] * dual)}


@torch.no_grad()
def test_the_cls_model(files):
    """v1 paper, 3.3 and Fig. 6: linear layers of the class token in the place of all cross-attentions."""
    stage, batch = stage_of(files, "v1", {"reference_drop": 0.5}, "eps", "cls"), batch_of()
    noise, shift, kept = normal(10, 2, 4, 8, 8), normal(12, 2, 4), torch.tensor([0.9, 0.1])
    draws = Scripted([("timesteps", torch.tensor(T)), ("randn", noise), ("randn", shift), ("rand", kept)])
    terms = stage(batch, draws)
    weights, encoder = weights_of(stage, files)
    latents = stage._colorizer[0].autoencoder.encode(in_range(batch["color"]))
    token = steps.dropped(all_tokens(encoder, in_range(batch["reference"]))[:, 0], kept, 0.5)
    noise = steps.with_offset(noise, shift, OFFSET)
    noisy, control = steps.diffused(latents, noise, T), control_of(weights, batch["sketch"])
    answer = answer_of(weights, noisy, T, ClassToken(token), control)
    assert terms["denoising"].item() == pytest.approx(steps.squared_error(answer, latents, noise, T, "eps"), rel=1e-4)


# -- stage v1_5 --------------------------------------------------------------------------------------------------------


def to_latent(masks):
    """uint8 masks (B, 1, H, W) -> (B, 1, H/8, W/8), bicubic."""
    side = masks.shape[-1] // 8
    return F.interpolate(masks.float() / 255, (side, side), mode="bicubic", align_corners=False)


@torch.no_grad()
@pytest.mark.parametrize("bleach", [0.0, 0.5])
def test_stage_v1_5(files, bleach):
    """Eq. 1 and 2 of the v1.5 paper: figure queries read phi(r), background queries R(phi(r_b)), thresholds drawn."""
    loss = {"reference_drop": 0.8, "reference_drop_end": 0.5, "background_bleach": bleach}
    stage, batch, progress = stage_of(files, "v1_5", loss), batch_of(), 0.75
    drawn, kept = torch.tensor([[0.30, 0.60], [0.75, 0.20]]), torch.tensor([0.60, 0.76])
    noise, shift, bleach_draws = normal(20, 2, 4, 8, 8), normal(21, 2, 4), torch.tensor([0.4, 0.9])
    draws = Scripted(
        [("rand", drawn), ("rand", bleach_draws), ("timesteps", torch.tensor(T)), ("randn", noise)]
        + [("randn", shift), ("rand", kept)]
    )
    terms = stage(batch, draws, progress)
    assert draws.left == 0 and set(terms) == {"denoising"}

    weights, encoder = weights_of(stage, files)
    ours, theirs = ([0.05 + 0.9 * value for value in column] for column in drawn.T.tolist())
    white = [value < bleach for value in bleach_draws.tolist()]
    masks, reference_masks = (batch[name].float() / 255 for name in ("mask", "reference_mask"))

    def figure(row, value):
        return value > ours[row] or not white[row]

    def behind(row, value):
        return value < theirs[row] and not white[row]

    latents = stage._colorizer[0].autoencoder.encode(steps.without(in_range(batch["color"]), masks, figure))
    sketches = steps.without(batch["sketch"].float(), masks, figure, 255.0)
    references = in_range(batch["reference"])
    background = local_tokens(encoder, steps.without(references, reference_masks, behind))
    sets = [local_tokens(encoder, references), recovered(weights, background, torch.tensor(theirs))]
    rate = steps.rate_at(0.8, 0.5, progress)
    reads = Regions(*(steps.dropped(tokens, kept, rate) for tokens in sets), to_latent(batch["mask"]), ours)
    noise = steps.with_offset(noise, shift, OFFSET)
    control = control_of(weights, sketches)
    answer = answer_of(weights, steps.diffused(latents, noise, T), T, reads, control)
    expected = steps.squared_error(answer, latents, noise, T, "v")
    assert terms["denoising"].item() == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["masked", "bg2fig", "fig2fig"])
def test_the_modes_of_v1_5(files, mode):
    """v1.5 paper, 3.4: which weights and which tokens answer a query of the figure and one of the background."""
    colorizer = V1Colorizer.from_files(files["v1_5"], files["encoder"], torch.device("cpu"))
    batch = batch_of()
    references, masks = in_range(batch["reference"]), batch["mask"].float() / 255
    reference_masks = batch["reference_mask"].float() / 255
    regions = colorizer.regions(mode, references, masks, reference_masks)
    tokens, noisy, t = colorizer.tokens(references), normal(30, 2, 4, 8, 8), torch.tensor(T)
    found = colorizer.unet(noisy, t, None, None, split=regions.split(tokens))

    tensors = dict(colorizer.unet.state_dict())
    weights = Weights({f"model.diffusion_model.{key}": value for key, value in tensors.items()})
    networks = Weights(dict(colorizer.background_encoder.state_dict()))
    encoder = Weights(dict(colorizer.reference_encoder.visual.state_dict()))
    whole = local_tokens(encoder, references)
    behind = local_tokens(encoder, steps.without(references, reference_masks, lambda row, value: value < 0.5))
    background, kinds = {
        "masked": (behind, (None, None)),
        "bg2fig": (whole, ("fg", None)),
        "fig2fig": (recovered(networks, behind, torch.tensor([0.5, 0.5])), ("fg", "bg")),
    }[mode]
    reads = Regions(whole, background, to_latent(batch["mask"]), [0.05, 0.05], kinds)
    torch.testing.assert_close(found, answer_of(weights, noisy, T, reads, None), atol=1e-3, rtol=1e-3)
