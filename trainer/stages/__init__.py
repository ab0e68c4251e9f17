"""What can be trained. A stage is a module whose forward turns a batch into named loss terms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from trainer.config import ANIMEDIFFUSION, XL, Config

Batch = Mapping[str, torch.Tensor]

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


class Stage(nn.Module):
    """Base of all stages. Registered parameters are trained and saved; frozen networks are kept out of the module tree.

    The names of the parameters are those of the exported file.
    """

    rests = False
    """Whether there are batches in which some trained parameters take no part; processes must know when they wait for
    each other's gradients."""

    def __init__(self, config: Config, device: torch.device):
        super().__init__()
        self.config = config
        self.device = device

    def forward(self, batch: Batch, generator: torch.Generator, progress: float = 0.0) -> dict[str, torch.Tensor]:
        """Loss terms by name (scalars, summed by the loop). All randomness comes from `generator` (CPU).

        progress: share of the run that is done, 0..1, for schedules.
        """
        raise NotImplementedError

    def sheet(self, batch: Batch, generator: torch.Generator) -> np.ndarray:
        """A picture (H, W, 3) uint8 that shows what the stage can do with a batch."""
        raise NotImplementedError

    def curves(self, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """Further numbers of a validation by name, measured on the fixed held-out samples; none by default."""
        return {}

    def export(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Tensors and metadata of the file the nodes load, from trained or averaged weights."""
        raise NotImplementedError

    def further_exports(
        self, weights: Mapping[str, torch.Tensor]
    ) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, str]]]:
        """Files beside that one, by what follows the run's name; none by default."""
        return {}


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


def picture(values: torch.Tensor) -> torch.Tensor:
    """uint8 (B, C, H, W) -> float in [-1, 1]."""
    return values.float() / 127.5 - 1.0


def model_sketch(values: torch.Tensor) -> torch.Tensor:
    """uint8 sketch (B, 1, H, W), black lines on white -> (B, 3, H, W) in [-1, 1], white lines on black."""
    return -picture(values).expand(-1, 3, -1, -1)


def contact_sheet(columns: list[torch.Tensor]) -> np.ndarray:
    """Columns of pictures (B, 3, H, W) in [-1, 1] -> one picture, a row per sample."""
    rows = torch.cat([c.expand(-1, 3, -1, -1).clamp(-1, 1).float().cpu() for c in columns], dim=3)
    tall = torch.cat(list(rows), dim=1)
    return tall.add(1).mul(127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
