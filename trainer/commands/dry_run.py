"""`train --dry-run`: what a run will cost, before it costs anything. Networks are built on the meta device."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from colorize.reference.vision import ReferenceEncoder, load_reference_encoder
from colorize.sketch.encoder import SketchEncoder
from colorize.unet.unet import UNet, UNetConfig, unet_config_from_state_dict
from trainer.config import XL, Config, ConfigError
from trainer.models import checkpoint
from trainer.models.colorizer import REGION_LORA, UNET
from trainer.models.frozen import autoencoder_file
from trainer.run import memory
from trainer.run.loop import build_dataset
from trainer.stages.table import build_stage

ENCODERS_ASIDE = "encoders  not in memory, when the cache folder holds every picture"


def _count(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def _colorizer_networks(config: Config) -> tuple[dict[str, int], dict[str, int], list[str], int]:
    """Stages v1 and v1_5: parameter counts of trained and frozen networks, lines about shapes, bytes of activations."""
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
    vae, _ = checkpoint.read_tensors(Path(autoencoder_file(config)))
    vae = {k: v for k, v in vae.items() if k.startswith("first_stage_model.")} or vae
    frozen = {"reference encoder": _count(encoder.parameters()), "autoencoder": _count(vae.values())}
    if config.data.cache_folder:
        frozen = {}
    if config.run.stage == "v1":
        trained = backbone
    else:
        trained, frozen = _region_parts(config, unet_config, encoder), backbone | frozen
    side = (config.data.crop or config.data.size) // 8
    shapes = [
        f"latents   ({config.optimizer.batch}, {unet_config.in_channels}, {side}, {side})",
        f"tokens    ({config.optimizer.batch}, {encoder.token_count - 1}, {encoder.output_dim})",
        f"widths    {widths}, heads of {unet_config.num_head_channels}",
    ]
    if config.data.cache_folder:
        shapes.append(ENCODERS_ASIDE)
    activations = memory.colorizer_activations(config, unet_config, encoder.token_count - 1)
    return trained, frozen, shapes, activations


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


def report(config: Config) -> str:
    """The text `--dry-run` prints. Problems of the configuration raise ConfigError as they would in training."""
    for name in ("init", "init_from", "vae", "encoder", "tagger"):
        if (path := getattr(config.model, name)) and not Path(path).is_file():
            raise ConfigError(f"model.{name} = {path!r} does not exist.")
    if config.data.holdout and not Path(config.data.holdout).is_dir():
        raise ConfigError(f"data.holdout = {config.data.holdout!r} does not exist.")
    data, batch, activations = config.data, config.optimizer.batch, None
    dataset = build_dataset(config)
    if config.run.stage in ("v1", "v1_5"):
        trained, frozen, shapes, activations = _colorizer_networks(config)
    elif config.run.stage == "vae":
        from colorize.tiny_vae import TinyVAE

        trained, frozen = {"autoencoder": _count(TinyVAE(device="meta").parameters())}, {}
        shapes = [f"pictures  ({batch}, 3, {data.size}, {data.size})"]
    elif config.run.stage == "encoder":
        from trainer.stages.encoder import new_tower

        tower = new_tower(config.model, device="meta")
        trained, frozen = {"reference encoder": _count(tower.parameters())}, {}
        shapes = [f"tokens    ({batch}, {tower.token_count}, {tower.output_dim})"]
    elif config.run.stage in XL:
        from trainer.stages.xl import sizes

        trained, frozen, shapes = sizes(config)
        if config.data.cache_folder:
            frozen = {}
            shapes.append(ENCODERS_ASIDE)
    else:  # built for real
        stage = build_stage(config, torch.device("cpu"))
        trained, frozen = {"networks": _count(p for p in stage.parameters() if p.requires_grad)}, {}
        shapes = [f"pictures  ({batch}, 3, {data.size}, {data.size})"]
    total = sum(trained.values())
    processes = int(os.environ.get("WORLD_SIZE", 1))
    needed = memory.estimate(config, total, sum(frozen.values()), activations, processes)
    samples = batch * config.optimizer.accumulate * processes
    epochs = samples * config.run.steps / len(dataset)
    lines = ["", f"stage     {config.run.stage}", *shapes]
    lines += [f"trained   {name}: {count / 1e6:.2f} M" for name, count in trained.items()]
    lines += [f"frozen    {name}: {count / 1e6:.2f} M" for name, count in frozen.items()]
    lines += [
        f"trained   total: {total / 1e6:.2f} M",
        f"memory    {needed} ({config.system.precision})",
        f"batch     {samples} samples per step: {batch} x {config.optimizer.accumulate} micro steps "
        f"x {processes} processes",
        f"data      {len(dataset)} pictures; {epochs:.1f} epochs",
        f"groups    {dataset.groups.summary(dataset.items.names)}",
        *(f"problem   {problem}" for problem in dataset.problems),
    ]
    return "\n".join(lines)
