"""Sketches that end before the paper does: the released XL trainer whitens a random border of the sketch only.

Its widest border is 201 pixels, for pictures of about 1024.
"""

from __future__ import annotations

import numpy as np
import torch


def whiten_border(sketch: torch.Tensor, random: np.random.Generator, widest: int) -> torch.Tensor:
    """uint8 sketch (C, H, W), black on white, with a white border of 0..widest pixels.

    One of four, each as likely: above and below, left and right, all sides (two draws), or none.
    """
    kind = random.integers(4)
    rows, columns = (int(n) for n in random.integers(0, widest + 1, 2))
    height, width = sketch.shape[-2:]
    inside = torch.zeros(height, width, dtype=torch.bool)
    rows, columns = rows if kind in (0, 2) else 0, columns if kind in (1, 2) else 0
    inside[rows : max(rows, height - rows), columns : max(columns, width - columns)] = True
    return torch.where(inside, sketch, torch.full_like(sketch, 255))
