"""What a stage is: a module whose forward turns a batch into named loss terms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from colorize.unet.unet import UNet
from trainer.config import Config
from trainer.draws import Draws
from trainer.models.adapters import Adapters
from trainer.pictures import Batch


class Stage(nn.Module):
    """Base of all stages. Registered parameters are trained and saved; frozen networks are kept out of the module tree.

    The names of the parameters are those of the exported file.
    """

    rests = False
    """Whether there are batches in which some trained parameters take no part; processes must know when they wait for
    each other's gradients."""

    carriers: tuple[tuple[UNet, Adapters], ...] = ()
    """Frozen networks that run with trained adapters on their layers, and these."""

    own_files: tuple[str, ...] = ()
    """How the names of trained tensors begin that come from a file of their own, whatever model.init_from has."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.device = device

    def forward(self, batch: Batch, draws: Draws, progress: float = 0.0) -> dict[str, torch.Tensor]:
        """Loss terms by name (scalars, summed by the loop). All randomness comes from `draws` (CPU).

        progress: share of the run that is done, 0..1, for schedules.
        """
        raise NotImplementedError

    def sheet(self, batch: Batch, draws: Draws) -> np.ndarray:
        """A picture (H, W, 3) uint8 that shows what the stage can do with a batch."""
        raise NotImplementedError

    def curves(self, batch: Batch, draws: Draws) -> dict[str, float]:
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

    def marks(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Tensors and metadata of a whole model that say, beside its weights, what it has become; none by default."""
        return {}, {}
