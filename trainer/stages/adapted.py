"""What stages do where [adapter] trains small changes of a frozen U-Net (models/adapters.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from colorize import families, names
from colorize.unet.config import UNetConfig
from colorize.unet.unet import UNet
from trainer.config import Config, ConfigError
from trainer.models import checkpoint
from trainer.models.adapters import Adapters, adapt
from trainer.models.frozen import FrozenAutoencoder
from trainer.models.precision import DTYPES

from .shared import freeze, model_header, model_markers, with_autoencoder
from .stage import Stage

PREFIX = names.LORA_UNET
"""Of the adapters' tensors: the stage's own name for them, and the one behind which ComfyUI looks for layers."""


def wanted(config: Config) -> bool:
    """Whether a run trains adapters."""
    return config.adapter.kind != "none"


def check(config: Config) -> None:
    """ConfigError for what does not go together with adapters."""
    model, adapter, precision = config.model, config.adapter, config.system.precision
    if not wanted(config):
        return
    if not model.init:
        raise ConfigError(
            f'adapter.kind = "{adapter.kind}" changes a trained model: name its file in model.init'
            f"{' instead of model.init_from' if model.init_from else ''}."
        )
    for key, found in (("model.init_from", model.init_from), ("model.train_encoder", model.train_encoder)):
        if found:
            off = '""' if isinstance(found, str) else "false"
            raise ConfigError(f"{key} trains other weights than those of adapter.kind: set it to {off}.")
    if adapter.frozen not in ("fp32", precision):
        raise ConfigError(
            f'adapter.frozen = "{adapter.frozen}" keeps weights in another type than system.precision = "{precision}" '
            "multiplies with: set both to the same, or adapter.frozen to fp32."
        )


def hang(stage: Stage, unet: UNet, sketch_encoder: nn.Module, *others: nn.Module) -> None:
    """Give a stage trained adapters of a U-Net; it and the other networks are frozen, brought to the form in which they
    lie in memory and moved to the stage's device."""
    in_frozen_type(stage.config, sketch_encoder)
    for network in (sketch_encoder, *others):
        freeze(network, stage.config, stage.device)
    hang_alone(stage, unet)


def hang_alone(stage: Stage, unet: UNet) -> Adapters:
    """The same where the networks around the U-Net are frozen already. -> the adapters"""
    in_frozen_type(stage.config, unet)
    freeze(unet, stage.config, stage.device)
    adapters = adapters_of(unet, stage.config)
    stage.add_module(PREFIX.rstrip("."), adapters)
    stage.carriers = ((unet, adapters),)
    return adapters


def adapters_of(unet: UNet, config: Config) -> Adapters:
    """The configured adapters, on the layers of a U-Net."""
    settings = config.adapter
    return adapt(unet, settings.kind, settings.rank, settings.alpha, settings.layers)


def in_frozen_type(config: Config, *networks: nn.Module) -> None:
    """Bring the layers of frozen networks to the type of adapter.frozen. What normalises keeps its own."""
    dtype = DTYPES[config.adapter.frozen]
    if not wanted(config) or dtype == torch.float32:
        return
    for layer in (layer for network in networks for layer in network.modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            for name, value in layer.named_parameters(recurse=False):
                setattr(layer, name, nn.Parameter(value.detach().to(dtype), requires_grad=False))


def trained_parts(config: Config, sizes: UNetConfig) -> dict[str, list[torch.Tensor]]:
    """The adapters of a U-Net of these sizes, without values."""
    adapters = adapters_of(UNet(sizes, device="meta"), config)
    return {f"{config.adapter.kind} of the U-Net": list(adapters.parameters())}


def halved(config: Config) -> tuple[str, ...]:
    """The networks, by the names of a Cost, that adapter.frozen keeps in 16 bits."""
    return ("U-Net", "sketch encoder") if wanted(config) and config.adapter.frozen != "fp32" else ()


def export(
    config: Config, family: str, weights: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of the file for ComfyUI's LoRA loaders. family: of the model it changes, "v1", "v1.5"."""
    title, adapter = Path(config.run.output).name, config.adapter
    header = checkpoint.modelspec(
        title, f"colorize-diffusion-{family}/{adapter.kind}", config.data.size, config.model.prediction_type
    )
    return dict(weights), header | {
        "colorize.kind": "adapter",
        "colorize.family": family,
        "colorize.base": Path(config.model.init).name,
        "colorize.config": json.dumps(config.shareable()),
    }


def merged(stage: Stage, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a whole model: model.init with the adapters in its weights."""
    config, ((unet, adapters),) = stage.config, stage.carriers
    stage.load_state_dict(weights)
    tensors, metadata = checkpoint.read_tensors(Path(config.model.init))
    changed = adapters.merged({k.removeprefix(names.UNET): v for k, v in tensors.items() if k.startswith(names.UNET)})
    tensors |= {names.UNET + k: v for k, v in changed.items()}
    if config.model.vae:
        tensors = with_autoencoder(tensors, FrozenAutoencoder(config.model.vae, stage.device, channels_last=False))
    family = families.detect(tensors, metadata, config.model.init)
    markers = model_markers(config.model.prediction_type, unet.config.num_head_channels)
    header = model_header(config, family.name, unet.config) | family.sampler.header()  # as model.init says
    learned, how = stage.marks()
    return tensors | markers | learned, metadata | header | how
