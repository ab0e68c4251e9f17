"""What stages v1 and v1_5 cost."""

from __future__ import annotations

from dataclasses import replace

import torch

from colorize import names
from colorize.reference.vision import ReferenceEncoder
from colorize.sketch.encoder import SketchEncoder
from colorize.unet.config import UNetConfig
from colorize.unet.unet import UNet
from trainer.config import Config

from . import adapted, cost
from .activations import colorizer_activations
from .cost import Cost, cached, count
from .file_sizes import autoencoder_size, reference_encoder, unet_config
from .v1_5 import new_background_encoder, region_ranks


def v1_cost(config: Config, regions: bool = False) -> Cost:
    """Of stage v1; regions: of stage v1_5, which trains region weights on its frozen networks."""
    encoder = reference_encoder(config)
    sizes = unet_config(config, encoder)
    widths = [sizes.model_channels * mult for mult in sizes.channel_mult]
    backbone: dict[str, list[torch.Tensor]] = {
        "U-Net": list(UNet(replace(sizes, region_ranks=None), device="meta").parameters()),
        "sketch encoder": list(SketchEncoder(widths, sizes.model_channels, device="meta").parameters()),
    }
    encoders = {"reference encoder": count(encoder.parameters()), "autoencoder": autoencoder_size(config)}
    trained = backbone
    if adapted.wanted(config):
        backbone |= _region_parts(config, sizes, encoder) if regions else {}
        trained = adapted.trained_parts(config, replace(sizes, region_ranks=None))
    elif regions:
        trained = _region_parts(config, sizes, encoder)
    frozen = encoders if trained is backbone else cost.sizes(backbone) | encoders
    tokens = 1 if config.model.tokens == "cls" else encoder.token_count - 1
    batch, side = config.optimizer.batch, (config.data.crop or config.data.size) // 8
    shapes = (
        f"latents   ({batch}, {sizes.in_channels}, {side}, {side})",
        f"tokens    ({batch}, {tokens}, {encoder.output_dim})",
        f"widths    {widths}, heads of {sizes.num_head_channels}",
    )
    activations = colorizer_activations(config, sizes, tokens, frozen=trained is not backbone)
    counts, largest = cost.sizes(trained), cost.largest(trained)
    whole = Cost(counts, frozen, shapes, activations, largest, adapted.halved(config), cost.quantised(config, frozen))
    return cached(whole, config, tuple(encoders))


def v1_5_cost(config: Config) -> Cost:
    """Of stage v1_5."""
    return v1_cost(config, regions=True)


def _region_parts(config: Config, sizes: UNetConfig, encoder: ReferenceEncoder) -> dict[str, list[torch.Tensor]]:
    """What stage v1_5 trains, without values."""
    unet = UNet(replace(sizes, region_ranks=sizes.region_ranks or region_ranks(config.model)), device="meta")
    parts: dict[str, list[torch.Tensor]] = {
        "region LoRAs": [p for name, p in unet.named_parameters() if names.REGION_LORA in name]
    }
    if not config.model.recovery_layers:
        return parts
    with torch.device("meta"):
        background = new_background_encoder(encoder.output_dim, encoder.token_count - 1, config.model.recovery_layers)
    return parts | {
        "recovery transformer": list(background.transformer.parameters()),
        "threshold embedding": list(background.thresh_embedder.parameters()),
    }
