"""How large the networks are that a run reads from files, also where a file is not there yet (a dry run).

A file that is there says it by its header. Of one that is not: what another preset exports is as large as that preset
makes it, and everything else as the published network that the released models are used with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from colorize import names
from colorize.animediffusion.unet import AnimeUNetConfig
from colorize.reference.vision import ReferenceEncoder
from colorize.reference.wd_tagger import WDTagger
from colorize.tiny_vae import TinyVAE
from colorize.unet.config import XL, UNetConfig
from trainer.config import PRESETS, Config, load
from trainer.models.colorizer import unet_of
from trainer.models.frozen import autoencoder_file, encoder_sizes, tensor_shapes
from trainer.models.xl_colorizer import tagger_width

from .cost import count
from .encoder import new_tower
from .sizes import is_xl, v1_sizes
from .v1 import ENCODER_FILE

VIT_H: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 14,
    "width": 1280,
    "layers": 32,
    "head_width": 80,
    "output_dim": 1024,
}
BIG_G: dict[str, Any] = VIT_H | {
    "width": 1664,
    "layers": 48,
    "head_width": 104,
    "output_dim": 1280,
    "mlp_ratio": 8192 / 1664,
}
AUTOENCODER = 83_653_863  # parameters of the autoencoder of Stable Diffusion 1, 2 and XL
TAGS = 9083  # of wd-v1-4-swinv2-tagger-v2
RELEASED: dict[bool, dict[str, Any]] = {
    True: {
        "model_channels": XL.model_channels,
        "channel_mult": XL.channel_mult,
        "num_head_channels": XL.num_head_channels,
        "transformer_depth": XL.transformer_depth,
        "token_width": XL.context_dim,
    },
    False: {"model_channels": AnimeUNetConfig.channels, "channel_mult": AnimeUNetConfig.channel_mult},
}
"""Sizes in [model] of the released XL model, and of AnimeDiffusion's."""


def is_there(path: str) -> bool:
    """Whether a file of [model] can be read."""
    return Path(path).is_file()


@cache
def _exports() -> dict[Path, str]:
    """What the presets export -> the preset."""
    made: dict[Path, str] = {}
    for file in sorted(PRESETS.glob("*.toml")):
        config = load(str(file))
        output = Path(config.run.output)
        made[output / f"{output.name}.safetensors"] = file.stem
        if config.model.train_encoder:
            made[output / f"{output.name}{ENCODER_FILE}.safetensors"] = file.stem
    return made


def maker(path: str) -> Config | None:
    """The preset that exports a file, as it ships; None for a file of others."""
    preset = _exports().get(Path(path))
    return load(preset) if preset else None


def reference_encoder(config: Config) -> ReferenceEncoder:
    """The network of model.encoder, without weights."""
    path = config.model.encoder
    if is_there(path):
        return encoder_sizes(path)
    if made := maker(path):
        return new_tower(made.model, "meta") if made.run.stage == "encoder" else reference_encoder(made)
    return ReferenceEncoder(**(BIG_G if is_xl(config) else VIT_H), device="meta")


def second_tower(config: Config) -> tuple[int, int]:
    """Parameters of the network of model.tagger (XL), and the width of its tokens."""
    path, clip = config.model.tagger, config.model.second_tower == "clip"
    if clip:
        tower = encoder_sizes(path) if is_there(path) else ReferenceEncoder(**VIT_H, device="meta")
        return count(tower.parameters()), tower.output_dim
    if is_there(path):
        tensors, _ = tensor_shapes(Path(path))
        return count(tensors.values()), tagger_width(tensors, path)
    with torch.device("meta"):
        tagger = WDTagger(TAGS)
    return count(tagger.parameters()), tagger.model.num_features


def autoencoder_size(config: Config) -> int:
    """Parameters of the run's autoencoder."""
    path = autoencoder_file(config)
    if is_there(path):
        tensors, _ = tensor_shapes(Path(path))
        return count([v for k, v in tensors.items() if k.startswith(names.VAE)] or tensors.values())
    if made := maker(path):
        return count(TinyVAE(device="meta").parameters()) if made.run.stage == "vae" else autoencoder_size(made)
    return AUTOENCODER


def unet_config(config: Config, encoder: ReferenceEncoder) -> UNetConfig:
    """Sizes of the U-Net of stages v1 and v1_5: of model.init, or of a new one."""
    model = config.model
    if is_there(model.init):
        return unet_of(*tensor_shapes(Path(model.init)))[0]
    if made := maker(model.init):
        return unet_config(made, encoder)
    return v1_sizes(config, encoder.output_dim)


def first_of(config: Config) -> Config:
    """The configuration whose [model] says how large the networks of an XL or AnimeDiffusion run are: the one that made
    model.init, where the file itself is not there."""
    init = config.model.init
    if not init or is_there(init):
        return config
    if made := maker(init):
        return first_of(made)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, init="", **RELEASED[is_xl(config)]))


def _assumed(config: Config, key: str) -> str:
    """As what a file of [model] that is not there is counted, in words; nothing where no size depends on it."""
    path = getattr(config.model, key)
    if made := _exports().get(Path(path)):
        return f"; `python -m trainer train --config {made}` makes it, and it is counted as large as that"
    clip = "OpenCLIP bigG/14" if is_xl(config) and key == "encoder" else "OpenCLIP ViT-H/14"
    kinds: Mapping[str, str] = {
        "encoder": clip,
        "tagger": clip if config.model.second_tower == "clip" else "a WD tagger (Swin V2)",
        "vae": "the autoencoder of Stable Diffusion",
        "init_from": "" if autoencoder_file(config) != path else "Stable Diffusion, whose autoencoder is taken",
        "init": "" if config.run.stage == "vae" else "the released model",
    }
    return f"; counted as {kinds[key]}" if kinds[key] else ""


def missing(config: Config) -> list[str]:
    """The files of [model] that are not there, one line each, with what they are counted as."""
    paths = {key: getattr(config.model, key) for key in ("init", "init_from", "vae", "encoder", "tagger")}
    return [
        f"model.{key} = {path!r} does not exist{_assumed(config, key)}"
        for key, path in paths.items()
        if path and not is_there(path)
    ]
