"""What can be trained. A stage is a module whose forward turns a batch into named loss terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from trainer.config import Config

Batch = Mapping[str, torch.Tensor]

# Which parts of a picture each stage reads.
NEEDS = {
    "v1": ("color", "sketch", "reference"),
    "v1_5": ("color", "sketch", "reference", "mask", "reference_mask"),
    "vae": ("color",),
    "encoder": ("color", "regions"),
}


class Memory:
    """Rows of tensors by picture number: computed once and kept in main memory, where `on`."""

    def __init__(self, on: bool, device: torch.device):
        self.on, self.device = on, device
        self._kept: dict[int, torch.Tensor] = {}

    def rows(self, numbers: torch.Tensor, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """compute() gives the rows of all `numbers` (B,); it is called when any of them is new."""
        if not self.on:
            return compute()
        keys = numbers.tolist()
        if any(key not in self._kept for key in keys):
            for key, row in zip(keys, compute(), strict=True):
                self._kept.setdefault(key, row.cpu())
        return torch.stack([self._kept[key] for key in keys]).to(self.device)


class Stage(nn.Module):
    """Base of all stages. Registered parameters are trained and saved; frozen networks are kept out of the module tree.

    The names of the parameters are those of the exported file.
    """

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

    def export(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Tensors and metadata of the file the nodes load, from trained or averaged weights."""
        raise NotImplementedError


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
