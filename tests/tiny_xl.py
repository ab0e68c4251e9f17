"""Small XL checkpoints with random weights and the full layout, and the encoders that belong to them."""

from __future__ import annotations

import dataclasses

import torch

from colorize.background.reference_net import INPUT_CHANNELS, ReferenceNet
from colorize.reference.token_projection import TokenProjection
from colorize.reference.wd_tagger import WDTagger
from colorize.sketch.xl_encoder import XLSketchEncoder
from colorize.tiny_vae import TinyVAE
from colorize.unet.config import XL
from colorize.unet.region_lora import XL_KINDS, to_module_names, to_official_names
from colorize.unet.unet import UNet
from tests.tiny import prefixed, randomised

CONFIG = dataclasses.replace(
    XL,
    model_channels=64,
    channel_mult=(1, 1, 2),
    num_head_channels=32,
    context_dim=48,
    transformer_depth=(0, 1, 2),
    y_width=2 * 16,
)
CLIP_WIDTH, TAGGER_WIDTH, TAGS = 40, 64, 50
PLUGIN_Y = 4 * 16
TOKENS = 16  # of the tagger, and so of the projection
METADATA = {"colorize.num_head_channels": "32", "colorize.prediction_type": "v", "colorize.family": "xl"}
TAGGER_METADATA = {"colorize.image_size": "128", "colorize.window_size": "4"}


def checkpoint(seed: int = 0, vae: bool = True) -> dict[str, torch.Tensor]:
    """A whole XL checkpoint with the official names, without markers; head width 32 must be told separately."""
    widths = [CONFIG.model_channels * mult for mult in CONFIG.channel_mult]
    out = prefixed("model.diffusion_model.", randomised(UNet(CONFIG), seed))
    out |= prefixed("control_encoder.", randomised(XLSketchEncoder(widths, widths[0]), seed + 1))
    out |= prefixed("proj.", randomised(TokenProjection(CLIP_WIDTH, TAGGER_WIDTH, CONFIG.context_dim), seed + 2))
    if vae:
        weights = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
        out |= prefixed("first_stage_model.", randomised(TinyVAE(), seed + 3) | weights)
    return out


def checkpoint_plugin(seed: int = 0, vae: bool = True) -> dict[str, torch.Tensor]:
    """`checkpoint` with the same seed, background LoRAs and the background plugin."""
    plain = checkpoint(seed, vae)
    regions = UNet(dataclasses.replace(CONFIG, region_ranks=(0, 4)))
    names = to_official_names(to_module_names(randomised(regions, seed + 7)), XL_KINDS)
    out = prefixed("model.diffusion_model.", names) | plain
    config = dataclasses.replace(CONFIG, in_channels=INPUT_CHANNELS, y_width=PLUGIN_Y)
    out |= prefixed("bg_encoder.", randomised(ReferenceNet(config), seed + 8))
    unused = torch.randn(64, 4, 3, 3, generator=torch.Generator().manual_seed(seed + 9))
    out["model.diffusion_model.conv_fg.weight"] = unused
    out["model.diffusion_model.conv_fg.bias"] = unused[:, 0, 0, 0].clone()
    return out


def checkpoint_regions(seed: int = 0, vae: bool = True) -> dict[str, torch.Tensor]:
    """`checkpoint` with the same seed and region weights for figure and background, as stage xl_lora exports them."""
    regions = UNet(dataclasses.replace(CONFIG, region_ranks=(4, 0.5)))
    names = to_official_names(to_module_names(randomised(regions, seed + 7)), XL_KINDS)
    return prefixed("model.diffusion_model.", names) | checkpoint(seed, vae)


def tagger_weights(seed: int = 4) -> dict[str, torch.Tensor]:
    """A Swin V2 tagger of 128 pixels that answers 50 tags and 4 x 4 tokens; see TAGGER_METADATA."""
    network = WDTagger(TAGS, 8, (1, 1, 2, 1), (1, 1, 2, 4), 128, 4)
    return randomised(network.model, seed)


def tag_list() -> str:
    """Its selected_tags.csv."""
    words = {10: "standing", 11: "arms_up"}
    names = [words.get(number, f"tag_{number}") for number in range(TAGS)]
    rows = [f"{number},{name},{9 if number < 4 else 0},{100 - number}" for number, name in enumerate(names)]
    return "\n".join(["tag_id,name,category,count", *rows])
