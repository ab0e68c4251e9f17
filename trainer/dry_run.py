"""`train --dry-run`: what a run will cost, before it costs anything. Networks are built on the meta device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from model_patches.networks.sketch_encoder import SketchEncoder
from model_patches.networks.unet import UNet, UNetConfig, unet_config_from_state_dict
from model_patches.networks.vision import ReferenceEncoder, load_reference_encoder
from trainer import checkpoint
from trainer.colorizer import REGION_LORA, UNET
from trainer.config import Config, ConfigError
from trainer.loop import build_dataset

GIB = 2**30


def _count(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def _colorizer_networks(config: Config) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """Parameter counts of trained and frozen networks of stages v1 and v1_5, and lines about their shapes."""
    encoder = load_reference_encoder(*checkpoint.read_tensors(Path(config.model.encoder)))
    if config.model.init:
        tensors, metadata = checkpoint.read_tensors(Path(config.model.init))
        heads = metadata.get("colorize.num_head_channels")
        unet_config = unet_config_from_state_dict(tensors, UNET, int(heads) if heads else None)
    else:
        model = config.model
        unet_config = UNetConfig(
            model_channels=model.model_channels,
            channel_mult=model.channel_mult,
            num_head_channels=model.num_head_channels,
            context_dim=encoder.output_dim,
        )
    widths = [unet_config.model_channels * m for m in unet_config.channel_mult]
    backbone = {
        "U-Net": _count(UNet(replace(unet_config, region_ranks=None), device="meta").parameters()),
        "sketch encoder": _count(SketchEncoder(widths, unet_config.model_channels, device="meta").parameters()),
    }
    vae, _ = checkpoint.read_tensors(Path(config.model.vae or config.model.init))
    vae = {k: v for k, v in vae.items() if k.startswith("first_stage_model.")} or vae
    frozen = {"reference encoder": _count(encoder.parameters()), "autoencoder": _count(vae.values())}
    if config.run.stage == "v1":
        trained = backbone
    else:
        trained, frozen = _region_parts(config, unet_config, encoder), backbone | frozen
    side = config.data.size // 8
    shapes = [
        f"latents   ({config.optimizer.batch}, {unet_config.in_channels}, {side}, {side})",
        f"tokens    ({config.optimizer.batch}, {encoder.token_count - 1}, {encoder.output_dim})",
        f"widths    {widths}, heads of {unet_config.num_head_channels}",
    ]
    return trained, frozen, shapes


def _region_parts(config: Config, unet_config: UNetConfig, encoder: ReferenceEncoder) -> dict[str, int]:
    """Parameter counts of what stage v1_5 trains."""
    from trainer.stages.v1_5 import new_background_encoder, region_ranks

    ranks = unet_config.region_ranks or region_ranks(config.model)
    unet = UNet(replace(unet_config, region_ranks=ranks), device="meta")
    with torch.device("meta"):
        background = new_background_encoder(encoder.output_dim, encoder.token_count - 1, config.model.recovery_layers)
    return {
        "region LoRAs": _count(p for name, p in unet.named_parameters() if REGION_LORA in name),
        "recovery transformer": _count(background.transformer.parameters()),
        "threshold embedding": _count(background.thresh_embedder.parameters()),
    }


def activation_values(config: Config) -> int:
    """A rough count of values kept for the backward pass of one micro step (measured on the small model, +-40 %)."""
    pixels = (config.data.size // 8) ** 2 * config.optimizer.batch
    if config.run.stage not in ("v1", "v1_5"):
        return config.optimizer.batch * config.data.size**2 * 64 * 8
    per_pixel = sum(
        config.model.model_channels * mult / 4**level * (90 if level < 3 else 40)
        for level, mult in enumerate(config.model.channel_mult)
    )
    sketch = config.optimizer.batch * config.data.size**2 * 100 if config.run.stage == "v1" else 0  # frozen in v1_5
    passes = 2 if config.loss.dual_condition else 1
    return int(passes * pixels * per_pixel * (0.25 if config.system.gradient_checkpointing else 1)) + sketch


def report(config: Config) -> str:
    """The text `--dry-run` prints. Problems of the configuration raise ConfigError as they would in training."""
    for name in ("init", "vae", "encoder"):
        if (path := getattr(config.model, name)) and not Path(path).is_file():
            raise ConfigError(f"model.{name} = {path!r} does not exist.")
    data = config.data
    dataset = build_dataset(config)
    if config.run.stage in ("v1", "v1_5"):
        trained, frozen, shapes = _colorizer_networks(config)
    elif config.run.stage == "vae":
        from model_patches.networks.tiny_vae import TinyVAE

        trained, frozen = {"autoencoder": _count(TinyVAE(device="meta").parameters())}, {}
        shapes = [f"pictures  ({config.optimizer.batch}, 3, {data.size}, {data.size})"]
    else:
        from trainer.stages.encoder import new_tower

        tower = new_tower(config.model, device="meta")
        trained, frozen = {"reference encoder": _count(tower.parameters())}, {}
        shapes = [f"tokens    ({config.optimizer.batch}, {tower.token_count}, {tower.output_dim})"]
    total = sum(trained.values())
    states = 4 + (
        1 if config.optimizer.ema and config.optimizer.ema_device == "same" else 0
    )  # weight, gradient, two moments
    width = 4 if config.system.precision == "fp32" else 2
    memory = total * 4 * states + sum(frozen.values()) * 4 + activation_values(config) * width
    samples = config.optimizer.batch * config.optimizer.accumulate
    epochs = samples * config.run.steps / len(dataset)
    lines = ["", f"stage     {config.run.stage}", *shapes]
    lines += [f"trained   {name}: {count / 1e6:.2f} M" for name, count in trained.items()]
    lines += [f"frozen    {name}: {count / 1e6:.2f} M" for name, count in frozen.items()]
    lines += [
        f"trained   total: {total / 1e6:.2f} M",
        f"memory    about {memory / GIB:.1f} GiB per process ({config.system.precision})",
        f"data      {len(dataset)} pictures, {len(dataset.groups)} groups; {epochs:.1f} epochs",
        *(f"problem   {problem}" for problem in dataset.problems),
    ]
    return "\n".join(lines)
