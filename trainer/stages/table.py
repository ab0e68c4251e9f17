"""The stages by their names: what each reads, and how it is built."""

from __future__ import annotations

import torch

from trainer.config import ANIMEDIFFUSION, XL, Config

from .stage import Stage

# Which parts of a picture each stage reads.
NEEDS = {
    "v1": ("color", "sketch", "reference"),
    "v1_5": ("color", "sketch", "reference", "mask", "reference_mask"),
    "vae": ("color",),
    "encoder": ("color", "regions"),
    **dict.fromkeys(ANIMEDIFFUSION, ("color",)),
    "xl": ("color", "sketch", "reference", "score", "size"),
    "xl_plugin": ("color", "sketch", "reference", "mask", "reference_mask", "score", "size", "crop"),
    "xl_lora": ("color", "sketch", "reference", "mask", "reference_mask", "score", "size"),
}


def needs_of(config: Config) -> tuple[str, ...]:
    """The parts and numbers of a picture that a run reads."""
    needs = NEEDS[config.run.stage]
    if config.run.stage == "xl":
        if config.gram.weight and config.gram.other == "dataset":
            needs += ("other_reference",)
        if config.gram.weight and config.gram.figure_only:
            needs += ("mask",)
        if config.loss.reference_inpaint:
            needs += ("reference_mask", "other_reference_mask")
    return needs


def build_stage(config: Config, device: torch.device) -> Stage:
    """The stage `run.stage` names."""
    if config.run.stage == "v1":
        from .v1 import ColorizerStage

        return ColorizerStage(config, device)
    if config.run.stage == "v1_5":
        from .v1_5 import RegionStage

        return RegionStage(config, device)
    if config.run.stage == "vae":
        from .vae import AutoencoderStage

        return AutoencoderStage(config, device)
    if config.run.stage in ANIMEDIFFUSION:
        from .animediffusion import AnimeDiffusionStage

        return AnimeDiffusionStage(config, device)
    if config.run.stage == "xl":
        from .xl import XLBackboneStage

        return XLBackboneStage(config, device)
    if config.run.stage in XL:
        from .xl_regions import XLRegionStage

        return XLRegionStage(config, device)
    from .encoder import EncoderStage

    return EncoderStage(config, device)
