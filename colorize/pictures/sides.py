"""The size of a picture as two numbers."""

from __future__ import annotations

import torch


def sides_of(picture: torch.Tensor) -> tuple[int, int]:
    """(height, width) of a picture, a mask or a feature map (..., H, W)."""
    return picture.shape[-2], picture.shape[-1]
