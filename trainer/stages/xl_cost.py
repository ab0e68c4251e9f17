"""What the XL stages cost, without reading weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from colorize import names
from colorize.background.reference_net import INPUT_CHANNELS, ReferenceNet
from colorize.unet.config import UNetConfig
from colorize.unet.unet import UNet
from trainer.config import Config
from trainer.models.frozen import tensor_shapes
from trainer.models.xl_colorizer import unet_of

from . import adapted, cost
from .activations import colorizer_activations
from .cost import Cost, cached, count
from .file_sizes import autoencoder_size, first_of, reference_encoder, second_tower
from .v1_5 import region_ranks
from .xl import Y_WIDTH, new_networks

PARTS = {"U-Net": names.UNET, "sketch encoder": names.SKETCH_ENCODER, "token projection": names.PROJECTION}


def xl_cost(config: Config) -> Cost:
    """Of stage xl."""
    return _cost(config, regions=False, plugin=False)


def xl_plugin_cost(config: Config) -> Cost:
    """Of stage xl_plugin."""
    return _cost(config, regions=True, plugin=True)


def xl_lora_cost(config: Config) -> Cost:
    """Of stage xl_lora."""
    return _cost(config, regions=True, plugin=False)


def _cost(config: Config, regions: bool, plugin: bool) -> Cost:
    model, batch = config.model, config.optimizer.batch
    encoder, (tower, tower_width) = reference_encoder(config), second_tower(config)
    encoders = {
        "reference encoder": count(encoder.parameters()),
        "tagger" if model.second_tower == "tagger" else "second tower": tower,
        "autoencoder": autoencoder_size(config),
    }
    with torch.device("meta"):
        backbone, sizes = _backbone(first_of(config), encoder.output_dim, tower_width)
        trained = _region_parts(config, sizes, plugin) if regions else backbone
    if adapted.wanted(config):
        trained = adapted.trained_parts(config, sizes)
    side = config.data.size // 8
    shapes = (
        f"latents   ({batch}, {sizes.in_channels}, {side}, {side})",
        f"tokens    at most ({batch}, {encoder.token_count - 1}, {sizes.context_dim}): as many as the tagger has",
        f"widths    {[sizes.model_channels * m for m in sizes.channel_mult]}, depths "
        f"{list(sizes.transformer_depth)}, heads of {sizes.num_head_channels}",
    )
    frozen = encoders if trained is backbone else cost.sizes(backbone) | encoders
    activations = None
    if not plugin:
        activations = colorizer_activations(config, sizes, encoder.token_count - 1, frozen=trained is not backbone)
    counts, largest = cost.sizes(trained), cost.largest(trained)
    whole = Cost(counts, frozen, shapes, activations, largest, adapted.halved(config), cost.quantised(config, frozen))
    return cached(whole, config, tuple(encoders))


def _backbone(config: Config, clip_width: int, tower_width: int) -> tuple[dict[str, list[torch.Tensor]], UNetConfig]:
    """The tensors of the networks of model.init, or of new ones, and the U-Net's sizes."""
    model = config.model
    if model.init:
        tensors, metadata = tensor_shapes(Path(model.init))
        sizes, _ = unet_of(tensors, metadata)
        return {part: [v for k, v in tensors.items() if k.startswith(prefix)] for part, prefix in PARTS.items()}, sizes
    networks = new_networks(config, clip_width, tower_width)
    return dict(zip(PARTS, ([*n.parameters()] for n in networks), strict=True)), networks[0].config


def _region_parts(config: Config, sizes: UNetConfig, plugin: bool) -> dict[str, list[torch.Tensor]]:
    """Region weights, and the background plugin."""
    figure, background = region_ranks(config.model)
    ranks = sizes.region_ranks or (0 if plugin else figure, background)
    unet = UNet(dataclasses.replace(sizes, region_ranks=ranks))
    trained: dict[str, list[torch.Tensor]] = {
        "region LoRAs": [p for name, p in unet.named_parameters() if names.REGION_LORA in name]
    }
    if plugin:
        given = dataclasses.replace(sizes, in_channels=INPUT_CHANNELS, y_width=2 * Y_WIDTH)
        trained["background plugin"] = list(ReferenceNet(given).parameters())
    return trained
