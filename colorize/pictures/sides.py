"""The size of a picture as two numbers, and whether two are one at two scales."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def sides_of(picture: torch.Tensor) -> tuple[int, int]:
    """(height, width) of a picture, a mask or a feature map (..., H, W)."""
    return picture.shape[-2], picture.shape[-1]


def agree_but_for_scale(first: Sequence[int], second: Sequence[int], rounding: float = 1.0) -> bool:
    """Whether two sizes (h, w) are one at two scales.

    rounding: each side of the smaller one may be rounded by less than so many pixels.
    """
    if tuple(first) == tuple(second):
        return True
    small, large = sorted((tuple(first), tuple(second)), key=math.prod)
    least = max((side - rounding) / other for side, other in zip(small, large))
    most = min((side + rounding) / other for side, other in zip(small, large))
    return least < most
