"""Between the bytes of a batch and what networks see: the trainer's changes of range, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from colorize.pictures.ranges import levels_to_model

Batch = Mapping[str, torch.Tensor]
"""Parts of samples by name, as the data set gives them (data/folder.py): uint8 pictures, masks, labels; numbers."""


def picture(values: torch.Tensor) -> torch.Tensor:
    """uint8 (B, C, H, W) -> float in [-1, 1]."""
    return levels_to_model(values.float())


def model_sketch(values: torch.Tensor) -> torch.Tensor:
    """uint8 sketch (B, 1, H, W), black lines on white -> (B, 3, H, W) in [-1, 1], white lines on black."""
    return -picture(values).expand(-1, 3, -1, -1)


def figure_mask(values: torch.Tensor) -> torch.Tensor:
    """uint8 mask (B, 1, H, W), 255 = figure -> float in [0, 1]."""
    return values.float() / 255


def contact_sheet(columns: Sequence[torch.Tensor]) -> np.ndarray:
    """Columns of pictures (B, 3, H, W) in [-1, 1] -> one picture (H, W, 3) uint8, a row per sample."""
    rows = torch.cat([c.expand(-1, 3, -1, -1).clamp(-1, 1).float().cpu() for c in columns], dim=3)
    tall = torch.cat(list(rows), dim=1)
    return tall.add(1).mul(127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
